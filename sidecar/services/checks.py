"""The results of checks, and checks that may hang: they run in the background, so that a probe never waits for one.

A probe gets the last result with its age. A check that does not finish counts as failed.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from sidecar.runtime.threads import Workers
from sidecar.store import StoreError

log = structlog.get_logger("health")

_INTERVAL = 5.0  # seconds from the end of one run to the next
_TIMEOUT = 10.0  # seconds
_TICK = 0.25  # seconds


class Check(NamedTuple):
    """The result of a check."""

    name: str
    problem: str
    """The reason of the failure; empty if the check passed."""
    age: float = 0.0
    """Seconds since the check finished."""
    took: float = 0.0
    """Duration of the check in seconds."""
    note: str = ""
    """A remark on a check that passed."""

    def __str__(self) -> str:
        """Return the line of ``?verbose``, in the format of the Kubernetes API server."""
        if self.problem:
            return f"[-]{self.name} failed ({self.age:.1f} s ago): {self.problem}"
        note = f": {self.note}" if self.note else ""
        return f"[+]{self.name} ok ({self.age:.1f} s ago, took {1000 * self.took:.1f} ms){note}"


class PeriodicCheck:
    """A check that may take long.

    Args:
        name: name of the check.
        work: raises one of ``errors``, with the reason, if the check fails.
        errors: the exceptions that are failures.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], errors: tuple[type[Exception], ...]) -> None:
        self.name = name
        self._work = work
        self._errors = errors
        self._started: float | None = None
        self._last = Check(name, "")
        self._ended = time.monotonic()

    async def run(self) -> None:
        """Repeat the check."""
        while True:
            self._started = time.monotonic()
            try:
                await self._work()
                problem = ""
            except self._errors as exc:
                problem = str(exc)
            self._ended = time.monotonic()
            if bool(problem) != bool(self._last.problem):
                log.warning("check", check=self.name, problem=problem or "none any more")
            self._last = Check(self.name, problem, took=self._ended - self._started)
            self._started = None
            await asyncio.sleep(_INTERVAL)

    @property
    def result(self) -> Check:
        """The last result, or a failure if the current run takes too long."""
        now = time.monotonic()
        if self._started is not None and (elapsed := now - self._started) > _TIMEOUT:
            return Check(self.name, f"no answer for {elapsed:.0f} s", now - self._ended, elapsed)
        return self._last._replace(age=now - self._ended)


class DiskSpace:
    """The free space of a file system.

    Args:
        directory: a directory of the file system.
        min_free: bytes that must be free.
    """

    def __init__(self, directory: Path, min_free: int) -> None:
        self._directory = directory
        self._min_free = min_free
        self._thread = Workers(1, "disk")

    async def check(self) -> None:
        """Check the free space.

        Raises:
            OSError: the file system cannot be read.
            StoreError: too little space is free.
        """

        def free_bytes() -> int:
            stat = os.statvfs(self._directory)
            return stat.f_bavail * stat.f_frsize

        free = await self._thread.run(free_bytes)
        if free < self._min_free:
            raise StoreError(
                f"{free >> 20} MiB are free at {self._directory}, less than {self._min_free >> 20} (--min-free-disk)."
            )


class LoopLag:
    """The lag of the event loop: how late it runs a callback that is due."""

    def __init__(self) -> None:
        self._worst = [0.0, 0.0]  # seconds, in the current interval and in the one before
        self._interval_start = time.monotonic()

    async def run(self) -> None:
        """Measure the lag."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if now - self._interval_start > _INTERVAL:
                self._interval_start, self._worst = now, [0.0, self._worst[0]]
            self._worst[0] = max(self._worst[0], now - started - _TICK)

    @property
    def seconds(self) -> float:
        """The worst lag of the last five to ten seconds."""
        return max(self._worst)
