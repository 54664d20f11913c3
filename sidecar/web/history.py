"""How many jobs waited and ran in the last hour, for the plot: a look at the tally every few seconds."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from sidecar.domain.model import PENDING
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervised, Supervisor

_EVERY = 10.0  # seconds
_KEPT = 360
_RUNNING = frozenset({"RUN", "CLEANUP"})


class History:
    """Samples of the last hour, as long as this server has been there.

    Args:
        feed: has the tally.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._samples: deque[tuple[int, int, int]] = deque(maxlen=_KEPT)
        self._task: Supervised | None = None

    def start(self, tasks: Supervisor) -> None:
        """Begin to take samples, in a task of its own."""
        self._task = tasks.start(self._run, "history")

    async def close(self) -> None:
        """End the task."""
        if self._task:
            await self._task.close()

    async def _run(self) -> None:
        while True:
            if self._feed.caught_up:
                self._samples.append(self._now())
            await asyncio.sleep(_EVERY)

    def _now(self) -> tuple[int, int, int]:
        pending = running = 0
        for kind, number in self._feed.counts.groups.items():
            if kind.state in PENDING:
                pending += number
            elif kind.state in _RUNNING:
                running += number
        return int(time.time()), pending, running

    def series(self) -> list[list[int]]:
        """Return times (Unix seconds), pending and running jobs, up to now."""
        return [list(each) for each in zip(*self._samples, self._now(), strict=True)]
