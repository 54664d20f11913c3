"""The output of running jobs, for streams: each job is watched once, however many readers there are.

A reader is a :class:`~sidecar.outputlog.Cursor` in the job's log. What is here tells it when there is more: how many
pieces the log has, and whether that is all there will ever be. Nothing of the output is kept here.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from sidecar.domain.errors import Problem, Unavailable
from sidecar.journal.feed import Feed
from sidecar.journal.tail import Notifier
from sidecar.services.output_log import OutputLogs
from sidecar.store import Store, StoreError

log = structlog.get_logger("output")

_GATHER = 0.05  # seconds; pieces that come within this time go out together
_LONGER = 5e-6  # seconds more for each piece: to look at a list of a hundred thousand is work for the broker too
_AGAIN = 0.5  # seconds before another try


class LiveOutput:
    """The output of one job, as it comes."""

    def __init__(self, job: int, logs: OutputLogs, feed: Feed, store: Store) -> None:
        self._job = job
        self._logs = logs
        self._feed = feed
        self._store = store
        self._wakeups = Notifier()
        self._failed: Problem | None = None
        self.output = logs.open(job)
        self.count = 0
        """How many pieces of the log may be read."""
        self.ended = False
        """Whether the job has ended and every piece is known."""
        self.readers = 0
        self._task = asyncio.create_task(self._run(), name=f"output of {job}")

    def close(self) -> None:
        """Watch no longer."""
        self._task.cancel()

    async def wait(self, after: int) -> None:
        """Wait until there are more than ``after`` pieces, or no more will come.

        Raises:
            Closed: the server ends its streams.
            Problem: the job cannot be followed any longer.
        """
        while self.count <= after and not self.ended:
            if self._feed.tail.closed:
                raise self._feed.tail.closed
            if self._failed:
                raise self._failed
            await self._wakeups.wait()

    async def _run(self) -> None:
        """Watch until the job has ended; another failure than the instance's ends it, with its cause for readers."""
        try:
            while not self.ended and not self._feed.tail.closed:
                try:
                    await self._watch()
                except (Unavailable, StoreError) as exc:  # both pass: readers go on when it has
                    log.info("output cannot be followed, will retry", job=self._job, reason=str(exc))
                    self._wakeups.wake()
                    await asyncio.sleep(_AGAIN)
        except Problem as exc:
            log.warning("output cannot be followed", job=self._job, reason=exc.detail)
            self._failed = exc
        except Exception as exc:
            log.exception("output cannot be followed", job=self._job)
            self._failed = Problem(f"The output cannot be followed: {type(exc).__name__}.")
        finally:
            self._wakeups.wake()

    async def _watch(self) -> None:
        """Look for more whenever something is written, and once more when the job has ended."""
        version = -1
        writing: asyncio.Task[int | None] | None = None
        try:
            while True:
                with self._feed.waiters.next_change(self._job) as change:  # before the state is read
                    ended = (await self._store.state(self._job) or "INACTIVE") == "INACTIVE"
                    await self._look()
                    if ended:
                        self.ended = True
                        return
                    if self._feed.tail.closed:
                        return
                    writing = writing or asyncio.create_task(self._written(version), name="output version")
                    waiting: set[asyncio.Future[Any]] = {change, writing}
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if writing.done() and (found := writing.result()) is not None:
                        version, writing = found, None
                        await asyncio.sleep(_GATHER + self.count * _LONGER)
                    elif writing.done():  # nothing writes now: only the job's next event can change that
                        writing = None
                        await change
        finally:
            if writing:
                writing.cancel()

    async def _written(self, version: int) -> int | None:
        return await self._logs.instance.wait_for_output(self._job, version)

    async def _look(self) -> None:
        await self.output.refresh()
        if self.output.count > self.count:
            self.count = self.output.count
            self._wakeups.wake()


class LiveOutputs:
    """One follower for each job that has readers.

    Args:
        logs: where the output is read.
        feed: tells of the jobs' events.
        store: knows the jobs' states.
    """

    def __init__(self, logs: OutputLogs, feed: Feed, store: Store) -> None:
        self.logs = logs
        self._feed = feed
        self._store = store
        self._jobs: dict[int, LiveOutput] = {}

    def join(self, job: int) -> LiveOutput:
        """Return the follower of a job's output; give it back with :meth:`leave`."""
        follower = self._jobs.get(job)
        if follower is None:
            follower = self._jobs[job] = LiveOutput(job, self.logs, self._feed, self._store)
        follower.readers += 1
        return follower

    def leave(self, job: int) -> None:
        """Stop watching when no reader is left."""
        follower = self._jobs[job]
        follower.readers -= 1
        if not follower.readers:
            follower.close()
            del self._jobs[job]
