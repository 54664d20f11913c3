"""Ends an instance that nobody uses: a forgotten cluster costs money.

Idle is an instance without active jobs, running launchers and callers. Nothing is polled where something can be
waited for: every job event and every call puts the end off, and the watch sleeps until the earliest moment at which
it could be due.
"""

from __future__ import annotations

import asyncio
import time

import structlog

from sidecar.domain.errors import Conflict
from sidecar.domain.model import HistoryBegin, JobEvents
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervised, Supervisor
from sidecar.services.launchers import Launchers
from sidecar.services.lifecycle import Lifecycle

log = structlog.get_logger("idle")

_POLL = 0.2


class IdleStop:
    """Stops the service when it has been idle for long enough; stands between the instance and the feed.

    Args:
        lifecycle: told to drain.
        feed: gets every event, and tells how many jobs are active.
        launchers: how many run.
        instance: what is served.
        after: how long, in seconds; None: never.
        text: the same in the words of whoever has set it, for the reason that is shown.
    """

    def __init__(
        self,
        lifecycle: Lifecycle,
        feed: Feed,
        launchers: Launchers,
        instance: Instance,
        *,
        after: float | None,
        text: str = "",
    ) -> None:
        self._lifecycle = lifecycle
        self._feed = feed
        self._launchers = launchers
        self._instance = instance
        self.after = after
        self._text = f"{text}s" if text[-1:].isdigit() else text
        self._callers = 0
        self._alone = asyncio.Event()
        self._alone.set()
        self._last_use = time.monotonic()
        self._counting = False
        self._task: Supervised | None = None

    def start(self, tasks: Supervisor) -> None:
        """Begin to watch, where that is wanted, in a task of its own."""
        if self.after is not None:
            self._task = tasks.start(self._watch, "idle")

    async def close(self) -> None:
        """End the task."""
        if self._task:
            await self._task.close()

    @property
    def left(self) -> float | None:
        """Seconds until the instance is stopped, if all stays as it is; None while it is used, or never stopped."""
        if self.after is None or not self._counting or self._busy():
            return None
        return max(0.0, self._last_use + self.after - time.monotonic())

    # ------------------------------------------------------------------------------------------- what is a use

    @property
    def backlog(self) -> int:
        """How many items wait to be worked on; read from any thread."""
        return self._feed.backlog

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take what the instance tells, and pass it on: also a job too short to be seen active was a use."""
        self.used()
        self._feed.push(item)

    def interrupted(self) -> None:
        """Pass on that the instance tells no more for now; see :class:`~sidecar.instance.base.Sink`."""
        self._feed.interrupted()

    def __enter__(self) -> None:
        """Count a call as a use until it ends."""
        self._callers += 1
        self._alone.clear()

    def __exit__(self, *_: object) -> None:
        self._callers -= 1
        self.used()
        if not self._callers:
            self._alone.set()

    def used(self) -> None:
        """Count a use that is over already, as the beginning of a stream: a reader that only stays is none."""
        self._last_use = time.monotonic()

    def _busy(self) -> bool:
        return bool(self._callers or self._launchers.running or self._feed.active or not self._stoppable())

    def _stoppable(self) -> bool:
        """Whether a stop may begin: nobody has begun one, and it is known that no job is active."""
        ready = self._instance.status.connection == "ready" and self._feed.unended.known
        return ready and self._lifecycle.state == "running"

    # --------------------------------------------------------------------------------------------- the watch

    async def _watch(self) -> None:
        while not self._stoppable():
            await self._unused()
        if self._instance.ending == "foreign":
            log.warning("--idle-stop does nothing: another initial program runs in this instance")
            return
        self.used()
        self._counting = True
        while True:
            if self._busy():
                await self._unused()
                self.used()
            elif left := self.left:
                await asyncio.sleep(left)
            else:
                self._stop()

    async def _unused(self) -> None:
        """Wait for the end of one of the uses that there are."""
        if self._launchers.running:
            await self._launchers.idle()
        elif self._callers:
            await self._alone.wait()
        elif self._stoppable():
            await self._feed.idle()
            await asyncio.sleep(_POLL)  # whatever was waited for has ended: never a loop without a pause
        else:  # a stop is under way, or the instance is not there: neither tells when that is over
            await asyncio.sleep(_POLL)

    def _stop(self) -> None:
        try:
            self._lifecycle.stop("drain", by="--idle-stop", reason=f"idle for {self._text}")
        except Conflict as exc:  # the broker is another one by now, with an initial program of its own
            log.warning("idle, and not stopped", reason=exc.detail)
            self.used()
