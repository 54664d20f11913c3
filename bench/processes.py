"""Processes of a measurement: programs, the server's memory, and its latency."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

_ROOT = Path(__file__).parent.parent


class MeasurementError(Exception):
    """A figure is not available; the text says why."""


def say(text: str) -> None:
    """Report the progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def program(name: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run one of :mod:`bench.programs`; it has ended when the block has."""
    argv = [sys.executable, "-m", f"bench.programs.{name}", *map(str, arguments)]
    process = subprocess.Popen(argv, cwd=_ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def result(process: subprocess.Popen[str], within: float = 900) -> Any:
    """Wait for a program and return what it prints.

    Raises:
        MeasurementError: it failed.
    """
    try:
        out, err = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        raise MeasurementError(f"not done within {within:g} s") from None
    if process.returncode:
        raise MeasurementError((err or out).strip().splitlines()[-1] if (err or out).strip() else "failed")
    return json.loads(out) if out.strip() else None


def run(name: str, *arguments: object, within: float = 900) -> Any:
    """Run one of :mod:`bench.programs` and return what it prints."""
    with program(name, *arguments) as process:
        return result(process, within)


def expect(process: subprocess.Popen[str], word: str) -> None:
    """Wait until a program prints a line."""
    assert process.stdout
    if process.stdout.readline().strip() != word:
        result(process)
        raise MeasurementError(f"it does not come to: {word}")


def rss(pid: int) -> float:
    """Return a process's resident memory in MB (10^6 bytes)."""
    return _status(pid, "VmRSS") * 1024 / 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used so far, of all its threads, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise MeasurementError(f"process {pid} has no {name}")


def _children(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


class _Watch:
    """A value that is read repeatedly in a thread, while the context is active."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.is_set():
            begin = time.monotonic()
            self.look()
            self._over.wait(max(0.0, begin + self._interval - time.monotonic()))

    def look(self) -> None:
        """Look once; runs in the thread."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(30)


class Memory(_Watch):
    """The largest resident memory of a process during the context, and its growth.

    Args:
        pid: the process.
        children: whether its children count too.
    """

    def __init__(self, pid: int, *, children: bool = False) -> None:
        super().__init__(0.05)
        self._pid, self._children = pid, children
        self.begin = self.most = rss(pid)

    def look(self) -> None:
        """Read the memory now."""
        total = rss(self._pid)
        for child in _children(self._pid) if self._children else ():
            with contextlib.suppress(OSError, MeasurementError):  # it has ended
                total += rss(child)
        self.most = max(self.most, total)

    @property
    def growth(self) -> float:
        """Largest growth in MB."""
        return self.most - self.begin


class Probe(_Watch):
    """Latency of one small request, every 20 ms over a kept-alive connection, during the context.

    A blocked event loop of the server delays this request, so the latency shows the loop's lag. The interval is counted
    from one request to the next, so a delay of a second is one latency of a second.
    """

    def __init__(self, url: str, path: str) -> None:
        super().__init__(0.02)
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=120)
        self._connection.connect()
        self._path = path
        self.latencies: list[float] = []
        self.status = 0
        self.since = 0.0
        """Time of the first response with the present status, ``time.time()``."""

    def look(self) -> None:
        """Send one request."""
        begin = time.perf_counter()
        self._connection.request("GET", self._path)
        answer = self._connection.getresponse()
        answer.read()
        self.latencies.append(time.perf_counter() - begin)
        if answer.status != self.status:
            self.status, self.since = answer.status, time.time()
