"""Signals at any moment after the start, once and twice: exit code 0, and no process is left behind."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import SIDECAR, Broker, Process, Server, beside, embedded, eventually, flux_start

Start = Callable[[Any], Any]

#: How often each mode is signaled, at a random moment of the first two seconds.
ROUNDS = int(os.environ.get("SIGNAL_ROUNDS", "6"))
_LATEST = 2.0  # seconds
_WITHIN = 40.0  # seconds, on a machine that is busy


_OTHERS = (
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGSTKFLT,
    signal.SIGRTMIN, signal.SIGRTMAX,
)  # fmt: skip


def handled(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM, which it installs after its interpreter has started."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
    return _in_mask(status, "SigCgt")


def blocked(pid: int) -> bool:
    """Return whether a process blocks SIGTERM."""
    return _in_mask(Path(f"/proc/{pid}/status").read_text(), "SigBlk")


def _in_mask(status: str, name: str) -> bool:
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith(name))
    return bool(int(mask, 16) & 1 << signal.SIGTERM - 1)


def wait(seconds: float) -> None:
    """Wait for a random time."""
    threading.Event().wait(seconds)


def server_pid(process: Process) -> int:
    """Return the server's pid once it handles signals: of the process itself, or of the broker's initial program."""

    def found() -> int:
        if handled(process.pid) and "flux" not in Path(f"/proc/{process.pid}/comm").read_text():
            return process.pid
        try:
            child = process.child("flux-sidecar serve")
        except ValueError:
            return 0
        return child if handled(child) else 0

    return eventually(found, what="a server that handles signals")


def signalled(process: Process, *delays: float, number: int = signal.SIGTERM) -> int:
    """Signal the server after each delay (seconds) and return its exit code, or its broker's."""
    pid = process.pid if process.popen.args[1:2] == ["serve"] else server_pid(process)  # type: ignore[index]
    eventually(lambda: handled(pid), what="a server that handles signals")
    for delay in delays:
        wait(delay)
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            break  # the previous signal was enough
    begin = time.monotonic()
    code = process.wait(_WITHIN)
    assert time.monotonic() - begin < _WITHIN
    return code


@pytest.mark.parametrize("seed", range(ROUNDS))
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
class TestSignals:
    @pytest.fixture
    def moments(self, seed: int, twice: bool) -> list[float]:
        chance = random.Random(seed)
        return [_LATEST * chance.random(), *([chance.uniform(0.05, 0.5)] if twice else [])]

    def test_embedded(self, tmp_path: Path, started: Start, moments: list[float]) -> None:
        server = started(embedded(tmp_path))
        assert signalled(server, *moments) == 0, server.text()
        assert not server.leftovers()

    def test_initial_program(self, tmp_path: Path, started: Start, moments: list[float]) -> None:
        server = started(flux_start(tmp_path))
        assert signalled(server, *moments) == 0, server.text()
        eventually(lambda: not server.leftovers(), what="the end of all processes")

    def test_beside(self, tmp_path: Path, started: Start, moments: list[float], twice: bool) -> None:
        broker = started(Broker(tmp_path, cores=2)).running()
        server = started(beside(broker, tmp_path))
        assert signalled(server, *moments) == 0, server.text()
        if not twice:  # a second signal may end the server before it has requested the shutdown
            assert broker.wait(_WITHIN) == 0, broker.text()


def test_signals_that_are_blocked_at_the_start(tmp_path: Path, started: Start) -> None:
    """No signal is lost if the parent blocks it, even while the interpreter starts."""
    argv = ["env", "--block-signal=TERM", "flux-sidecar", "serve", "--embedded", "--port", "0"]
    server = started(Process(argv, tmp_path))
    eventually(lambda: blocked(server.pid) or handled(server.pid), what="signals that are blocked")
    server.signal(signal.SIGTERM)
    assert server.wait(_WITHIN) == 0, server.text()


@pytest.mark.parametrize(("first", "line"), [(signal.SIGTERM, "mode=now"), (signal.SIGHUP, "leaving")])
def test_processes_of_jobs_end_with_a_second_signal(tmp_path: Path, started: Start, first: int, line: str) -> None:
    server = started(embedded(tmp_path, "--kill-timeout", "60")).ready()
    job = server.submit(["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"])
    eventually(lambda: server.output(job) == ["ready\n"])
    server.signal(first)
    eventually(lambda: line in server.text())
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait(10) == 0
    assert time.monotonic() - begin < 5
    eventually(lambda: not server.leftovers(), within=5, what="the end of the job")


def test_a_terminal_that_closes_does_not_end_the_instance(tmp_path: Path, started: Start) -> None:
    """Beside a broker with another initial program: the server exits, and its store still has the jobs."""
    broker = started(Broker(tmp_path, cores=2, program=["sleep", "600"])).running()
    store = tmp_path / "jobs.sqlite"
    server = started(beside(broker, tmp_path, "--store", str(store))).ready()
    job = server.submit("sleep 600")
    server.state(job, "RUN")
    for _ in range(2):  # from the kernel, and from the shell
        server.signal(signal.SIGHUP)
    assert server.wait(_WITHIN) == 0
    again = started(beside(broker, tmp_path, "--store", str(store)))
    eventually(lambda: again.http.get("/v1/jobs").status_code == 200, what="a list")
    assert again.ready().job(job)["state"] == "RUN"


def test_other_signals(tmp_path: Path, started: Start) -> None:
    """They are ignored, and jobs do not inherit that; SIGQUIT is a stop."""
    server = started(embedded(tmp_path)).ready()
    for number in _OTHERS:
        server.signal(number)
        job = server.run(["sh", "-c", f"kill -{int(number)} $$"])
        assert job["returncode"] == 128 + number
    server.signal(signal.SIGQUIT)
    assert server.wait(_WITHIN) == 0


@pytest.mark.parametrize(
    ("uri", "ssh"),
    [("local:///nosuch/local", ""), ("ssh://nohost.invalid/x", "exit 255"), ("ssh://slow.invalid/x", "exec sleep 20")],
    ids=["local", "ssh", "hangs"],
)
def test_a_server_that_has_reached_no_broker_exits_at_once(tmp_path: Path, started: Start, uri: str, ssh: str) -> None:
    """There is nothing to stop, and the log does not claim otherwise."""
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\n{ssh}\n")
    program.chmod(0o755)
    argv = [SIDECAR, "serve", "--port", "0", "--uri", uri]
    server = started(Server(argv, tmp_path, FLUX_SSH=str(program)))
    assert server.url
    if "sleep" in ssh:
        wait(3)  # during the first attempt
    else:
        eventually(lambda: "cannot connect" in server.text(), what="an attempt that has failed")
    begin = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait(_WITHIN) == 0, server.text()
    assert time.monotonic() - begin < 5, server.text()
    assert "instance='not reached'" in server.text()
    assert "ended" not in server.text()


def test_other_signals_during_a_stop(tmp_path: Path, started: Start) -> None:
    """An alarm from another process does not shorten it."""
    server = started(embedded(tmp_path, "--kill-timeout", "2")).ready()
    job = server.submit(["sh", "-c", "trap '' TERM; echo $$ > job; while :; do sleep 0.1; done"])
    server.state(job, "RUN")
    eventually(lambda: (tmp_path / "job").exists(), what="the job's trap")
    server.signal(signal.SIGTERM)
    for number in _OTHERS:
        server.signal(number)
    assert server.wait(_WITHIN) == 0
    assert "the process ends at once" not in server.text()
    assert not server.leftovers()


@pytest.mark.parametrize("number", [signal.SIGPWR, signal.SIGXCPU])
def test_signals_that_are_a_stop(tmp_path: Path, started: Start, number: signal.Signals) -> None:
    broker = started(Broker(tmp_path, cores=2)).running()
    server = started(beside(broker, tmp_path)).ready()
    server.signal(number)
    assert server.wait(_WITHIN) == 0
    assert f"signal={number.name}" in server.text()
    assert broker.wait(_WITHIN) == 0


def test_a_cpu_time_limit_is_an_orderly_stop(tmp_path: Path, started: Start) -> None:
    """The kernel repeats the signal every second, which does not count as a second signal."""
    server = started(embedded(tmp_path, "--kill-timeout", "3")).ready()
    job = server.submit(["sh", "-c", "trap '' TERM; echo $$ > job; while :; do sleep 0.1; done"])
    server.state(job, "RUN")
    eventually(lambda: (tmp_path / "job").exists(), what="the job's trap")
    for _ in range(4):
        server.signal(signal.SIGXCPU)
        time.sleep(0.3)
    assert server.wait(_WITHIN) == 0
    assert "the process ends at once" not in server.text()
    assert not server.leftovers()
