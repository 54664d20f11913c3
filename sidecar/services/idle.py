"""Stop an instance that is not used (``--idle-stop``): a forgotten cluster costs money.

An instance is idle while it has no active jobs, no running launchers and no request in progress. Each job event and
each request restarts the countdown. The watch does not poll where it can wait: it sleeps until the earliest moment at
which the stop could be due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import structlog

from sidecar.domain.errors import Conflict
from sidecar.runtime.tasks import Supervised, Supervisor
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.workload import Workload

log = structlog.get_logger("idle")

_POLL = 0.2  # seconds


class IdleStop:
    """Drain and stop the service when the instance has been idle for some time.

    Args:
        lifecycle: runs the stop.
        workload: the instance with its jobs and launchers.
        after: seconds; None disables the stop.
        text: the same as in the setting, for the reason of the stop.
    """

    def __init__(self, lifecycle: Lifecycle, workload: Workload, *, after: float | None, text: str = "") -> None:
        self._lifecycle = lifecycle
        self._instance, self._feed, self._launchers = workload
        self.after = after
        self._text = f"{text}s" if text[-1:].isdigit() else text
        self._requests = 0
        self._request = _Request(self._start_request, self._end_request)
        self._no_requests = asyncio.Event()
        self._no_requests.set()
        self._last_use = time.monotonic()
        self._counting = False
        self._task: Supervised | None = None

    def start(self, tasks: Supervisor) -> None:
        """Start the countdown in a background task, if it is enabled."""
        if self.after is not None:
            self._task = tasks.start(self._watch, "idle")

    async def close(self) -> None:
        """Cancel the task."""
        if self._task:
            await self._task.close()

    @property
    def left(self) -> float | None:
        """Seconds until the stop, if the instance stays idle; None while it is in use or if the stop is disabled."""
        if self.after is None or not self._counting or self._busy():
            return None
        # A job may be too short to be seen active: its events count as use.
        last_use = max(self._last_use, self._feed.last_event)
        return max(0.0, last_use + self.after - time.monotonic())

    def in_use(self) -> AbstractContextManager[None]:
        """Return a context that counts a request as use while it is in progress."""
        return self._request

    def _start_request(self) -> None:
        self._requests += 1
        self._no_requests.clear()

    def _end_request(self) -> None:
        self._requests -= 1
        self.used()
        if not self._requests:
            self._no_requests.set()

    def used(self) -> None:
        """Count a use that is over, such as the start of a stream: an open stream alone is not use."""
        self._last_use = time.monotonic()

    def _busy(self) -> bool:
        return bool(self._requests or self._launchers.running or self._feed.active_count or not self._can_stop())

    def _can_stop(self) -> bool:
        """Return whether a stop may start: no stop is in progress, and all active jobs are known."""
        ready = self._instance.status.connection == "ready" and self._feed.active_jobs.complete
        return ready and self._lifecycle.state == "running"

    async def _watch(self) -> None:
        while not self._can_stop():
            await self._wait_for_change()
        if self._instance.ending == "foreign":
            log.warning("--idle-stop does nothing: another initial program runs in this instance")
            return
        self.used()
        self._counting = True
        while True:
            if self._busy():
                await self._wait_for_change()
                self.used()
            elif left := self.left:
                await asyncio.sleep(left)
            else:
                self._stop()

    async def _wait_for_change(self) -> None:
        """Wait until one of the current uses has ended."""
        if self._launchers.running:
            await self._launchers.wait_idle()
        elif self._requests:
            await self._no_requests.wait()
        elif self._can_stop():
            await self._feed.wait_idle()
            await asyncio.sleep(_POLL)  # the jobs may have ended already: never loop without a pause
        else:  # a stop is in progress, or the instance is not connected: neither notifies its end
            await asyncio.sleep(_POLL)

    def _stop(self) -> None:
        try:
            self._lifecycle.stop("drain", by="--idle-stop", reason=f"idle for {self._text}")
        except Conflict as exc:  # the broker was replaced by one with an initial program of its own
            log.warning("idle, and not stopped", reason=exc.detail)
            self.used()


class _Request:
    """A request in progress; a class, as a generator on the way of every request takes seven times as long."""

    def __init__(self, start: Callable[[], None], end: Callable[[], None]) -> None:
        self._start = start
        self._end = end

    def __enter__(self) -> None:
        self._start()

    def __exit__(self, *_: object) -> None:
        self._end()
