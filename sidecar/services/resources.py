"""Poll the instance for its nodes and queues in the background, so that a scrape of metrics sends no RPC to Flux.

The poll runs one second after a job event, every two seconds during many events, and otherwise every five seconds:
nothing notifies of changes without a job event, such as a node that goes down.
"""

from __future__ import annotations

import asyncio
import contextlib

from sidecar.domain.closed import Closed
from sidecar.domain.errors import Problem
from sidecar.domain.model import Queues, Resources
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervised, Supervisor

# Seconds.
_INTERVAL = 5.0
_MIN_INTERVAL = 1.0
_AFTER_EVENT = 1.0  # the instance may return a cached response that is no older
_NOT_CONNECTED = 0.2  # between polls before the first response


class ResourcePoller:
    """The nodes and queues at the last poll.

    Args:
        instance: the instance.
        feed: notifies of job events.
    """

    def __init__(self, instance: Instance, feed: Feed) -> None:
        self._instance = instance
        self._feed = feed
        self._task: Supervised | None = None
        self.resources = Resources([])
        self.queues = Queues([])

    def start(self, tasks: Supervisor) -> None:
        """Start to poll in a background task."""
        self._task = tasks.start(self._run, "survey")

    async def close(self) -> None:
        """Cancel the task."""
        if self._task:
            await self._task.close()

    async def _run(self) -> None:
        while True:
            after, generation = self._feed.position, self._feed.tail.generation
            with contextlib.suppress(Problem):  # keep the last values; a metric reports their age
                self.resources, self.queues = await asyncio.gather(self._instance.resources(), self._instance.queues())
            if not self.queues.updated:
                await asyncio.sleep(_NOT_CONNECTED)
                continue
            await asyncio.sleep(_MIN_INTERVAL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL - _MIN_INTERVAL):
                    await self._wait_for_event(after, generation)
                    await asyncio.sleep(_AFTER_EVENT)

    async def _wait_for_event(self, after: int, generation: int) -> None:
        """Wait for an event after a position; it may have been stored during the poll."""
        try:
            await self._feed.tail.wait(after, generation)
        except Closed:  # the instance was replaced or has ended: poll now, then at the usual times
            return
