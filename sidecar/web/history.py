"""Sample the number of pending and running jobs every 10 seconds, for the plot of the last hour.

This is not the history of the journal, see :mod:`sidecar.journal.feed`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

from sidecar.domain.model import PENDING
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervised, Supervisor

_INTERVAL = 10.0  # seconds
_SAMPLES = 360
_RUNNING = frozenset({"RUN", "CLEANUP"})


class History:
    """The samples since the start of this server, for one hour at most.

    Args:
        feed: the journal, which counts the jobs.
    """

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._samples: deque[tuple[int, int, int]] = deque(maxlen=_SAMPLES)
        self._task: Supervised | None = None

    def start(self, tasks: Supervisor) -> None:
        """Start the task that takes the samples."""
        self._task = tasks.start(self._run, "history")

    async def close(self) -> None:
        """End the task."""
        if self._task:
            await self._task.close()

    async def _run(self) -> None:
        while True:
            if self._feed.caught_up:
                self._samples.append(self._now())
            await asyncio.sleep(_INTERVAL)

    def _now(self) -> tuple[int, int, int]:
        pending = running = 0
        for group, number in self._feed.counts.groups.items():
            if group.state in PENDING:
                pending += number
            elif group.state in _RUNNING:
                running += number
        return int(time.time()), pending, running

    def series(self) -> list[list[int]]:
        """Return three lists: times (Unix seconds), pending jobs and running jobs, up to now."""
        return [list(column) for column in zip(*self._samples, self._now(), strict=True)]
