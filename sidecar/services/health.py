"""Whether the server works, for probes: looked after in the background, so that a probe never waits for what hangs.

What can be told at once is told when it is asked for. What may take long (a write into the store's file) is tried every
few seconds by a task of its own; who asks gets the last result and its age, and a try that does not end is a failure
itself.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

import structlog

from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Record, Supervised, Supervisor
from sidecar.runtime.threads import Workers
from sidecar.services.lifecycle import Lifecycle
from sidecar.store import Store, StoreError

log = structlog.get_logger("health")

_PERIOD = 5.0  # seconds from the end of one try to the next
_PATIENCE = 10.0
_TICK = 0.25
_LAGGING = 5.0  # seconds: from then on lists lack what is no news any more


class Check(NamedTuple):
    """One check as it stands."""

    name: str
    problem: str
    """What is wrong; empty when nothing is."""
    age: float = 0.0
    """How long ago this was found out (seconds)."""
    took: float = 0.0
    """How long that took (seconds)."""
    note: str = ""
    """What else there is to say of a check that has not failed; empty when there is nothing."""

    def __str__(self) -> str:
        """As Kubernetes' own servers write it."""
        if self.problem:
            return f"[-]{self.name} failed ({self.age:.1f} s ago): {self.problem}"
        note = f": {self.note}" if self.note else ""
        return f"[+]{self.name} ok ({self.age:.1f} s ago, took {1000 * self.took:.1f} ms){note}"


class Periodic:
    """A check that may take long.

    Args:
        name: what is checked.
        work: raises one of ``errors`` when it fails, with what is wrong.
        errors: what that may be.
    """

    def __init__(self, name: str, work: Callable[[], Awaitable[None]], errors: tuple[type[Exception], ...]) -> None:
        self.name = name
        self._work = work
        self._errors = errors
        self._began: float | None = None
        self._last = Check(name, "")
        self._ended = time.monotonic()

    async def run(self) -> None:
        """Try again and again."""
        while True:
            self._began = time.monotonic()
            try:
                await self._work()
                problem = ""
            except self._errors as exc:
                problem = str(exc)
            self._ended = time.monotonic()
            if bool(problem) != bool(self._last.problem):
                log.warning("check", check=self.name, problem=problem or "none any more")
            self._last = Check(self.name, problem, took=self._ended - self._began)
            self._began = None
            await asyncio.sleep(_PERIOD)

    def look(self) -> Check:
        """Return how it stands."""
        now = time.monotonic()
        if self._began is not None and (since := now - self._began) > _PATIENCE:
            return Check(self.name, f"no answer for {since:.0f} s", now - self._ended, since)
        return self._last._replace(age=now - self._ended)


class LoopLag:
    """How late the event loop comes to its work."""

    def __init__(self) -> None:
        self._worst = [0.0, 0.0]  # of this stretch of time, and of the one before
        self._stretch = time.monotonic()

    async def run(self) -> None:
        """Measure."""
        while True:
            begin = time.monotonic()
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if now - self._stretch > _PERIOD:
                self._stretch, self._worst = now, [0.0, self._worst[0]]
            self._worst[0] = max(self._worst[0], now - begin - _TICK)

    @property
    def seconds(self) -> float:
        """At the worst, in the last five to ten seconds."""
        return max(self._worst)


class Health:
    """All checks of one server.

    Args:
        instance: is connected, or not.
        feed: works, or not; has read the history, or not.
        store: can be written, or not.
        lifecycle: is stopping, or not.
        tasks: all background tasks of the server.
        min_free: bytes that have to be free where the store is.
        unreached: why callers do not reach the server in one of its ways; empty when they do.
    """

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        store: Store,
        lifecycle: Lifecycle,
        tasks: Supervisor,
        *,
        min_free: int,
        unreached: Callable[[], str] = str,
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._store = store
        self._lifecycle = lifecycle
        self._tasks = tasks
        self._min_free = min_free
        self._unreached = unreached
        self.lag = LoopLag()
        self._prober = Workers(1, "disk")
        self._periodic = [
            Periodic("store", store.probe, (StoreError,)),
            Periodic("disk", self._disk, (OSError, StoreError)),
        ]
        self._running: list[Supervised] = []

    def start(self) -> None:
        """Begin to check, in tasks of their own."""
        for work in (self.lag.run, *(each.run for each in self._periodic)):
            self._running.append(self._tasks.start(work, "health", vital=True))

    async def close(self) -> None:
        """End the tasks."""
        await asyncio.gather(*(task.close() for task in self._running))

    def live(self) -> list[Check]:
        """Return what only a restart would mend."""
        return [
            Check("events", "" if self._feed.running else "Job events are no longer worked on."),
            Check("flux", self._instance.fault),
            Check("tasks", _sentences(self._tasks.hopeless), note=_sentences(self._tasks)),
        ]

    def ready(self) -> list[Check]:
        """Return all checks: whether commands are taken, and lists are complete."""
        status, state = self._instance.status, self._lifecycle.state
        connected = status.connection == "ready"
        away = f"The instance is {status.connection}: {status.detail or 'no answer yet'}."
        lag = self._feed.lag
        read = self._feed.caught_up or not connected  # before there is a connection that alone is to be told
        *live, tasks = self.live()
        return [
            *live,
            tasks._replace(problem=_sentences(self._tasks.dead)),
            Check("instance", "" if connected else away),
            Check("journal", "" if read else "The history of jobs is being read."),
            Check("stored", self._feed.problem),
            Check("lag", f"What has happened to jobs is stored {lag:.1f} s late." if lag > _LAGGING else ""),
            Check("service", "" if state == "running" else f"The service is {state}.", note=self._unreached()),
            *(each.look() for each in self._periodic),
        ]

    async def _disk(self) -> None:
        def free() -> int:
            found = os.statvfs(self._store.path.parent)
            return found.f_bavail * found.f_frsize

        left = await self._prober.run(free)
        if left < self._min_free:
            raise StoreError(
                f"{left >> 20} MiB are free at {self._store.path.parent}, less than {self._min_free >> 20} "
                "(--min-free-disk)."
            )


def _sentences(records: Iterable[Record]) -> str:
    text = "; ".join(str(record) for record in records)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
