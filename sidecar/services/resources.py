"""Asks the instance for its nodes and queues in the background, so that who reads metrics never makes Flux work.

It asks a second after something has happened to a job, every two seconds while much does, and else every five: what
changes without a job, such as a node that goes down, nobody tells.
"""

from __future__ import annotations

import asyncio
import contextlib

from sidecar.domain.errors import Closed, Problem
from sidecar.domain.model import Queues, Resources
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervised, Supervisor

_QUIET = 5.0  # seconds
_SETTLED = 1.0  # after an event, and what the instance may remember instead of asking anew
_PAUSE = 1.0
_UNKNOWN = 0.2  # before the first answer: there is no connection yet


class ResourcePoller:
    """What was told last.

    Args:
        instance: is asked.
        feed: tells when something has happened.
    """

    def __init__(self, instance: Instance, feed: Feed) -> None:
        self._instance = instance
        self._feed = feed
        self._task: Supervised | None = None
        self.resources = Resources([])
        self.queues = Queues([])

    def start(self, tasks: Supervisor) -> None:
        """Begin to ask, in a task of its own."""
        self._task = tasks.start(self._run, "survey")

    async def close(self) -> None:
        """End the task."""
        if self._task:
            await self._task.close()

    async def _run(self) -> None:
        while True:
            after, generation = self._feed.position, self._feed.tail.generation
            with contextlib.suppress(Problem):  # what is known stays, and its age tells
                self.resources, self.queues = await asyncio.gather(self._instance.resources(), self._instance.queues())
            if not self.queues.updated:
                await asyncio.sleep(_UNKNOWN)
                continue
            await asyncio.sleep(_PAUSE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUIET - _PAUSE):
                    await self._something_happens(after, generation)
                    await asyncio.sleep(_SETTLED)

    async def _something_happens(self, after: int, generation: int) -> None:
        """Wait for an event behind a position; it may have come while the instance was asked."""
        try:
            await self._feed.tail.wait(after, generation)
        except Closed:  # another instance, or the end: look at once, and then at the usual times
            return
