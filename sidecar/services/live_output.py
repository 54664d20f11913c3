"""The output of running jobs, for streams: each job is watched once for all of its readers.

A reader is a :class:`~sidecar.services.output_log.Cursor` in the job's log. This module notifies it of new chunks and
of the end of the log; it stores none of the output.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from sidecar.domain.errors import Problem, Unavailable
from sidecar.journal.feed import Feed
from sidecar.journal.tail import Notifier
from sidecar.runtime.tasks import Supervisor
from sidecar.services.output_log import OutputLogs
from sidecar.store import Store, StoreError

log = structlog.get_logger("output")

_GATHER = 0.05  # seconds: chunks that are written within this time are sent together
_GATHER_PER_CHUNK = 5e-6  # seconds for each chunk of the log: the broker has to read a list of all of them
_RETRY = 0.5  # seconds


class LiveOutput:
    """The output of one job while it grows.

    Args:
        jobid: the job.
        logs: the output logs.
        feed: notifies of job events.
        store: state of the job.
        tasks: runs the watch.
    """

    def __init__(self, jobid: int, logs: OutputLogs, feed: Feed, store: Store, tasks: Supervisor) -> None:
        self._jobid = jobid
        self._logs = logs
        self._feed = feed
        self._store = store
        self._notifier = Notifier()
        self._failure: Problem | None = None
        self.output = logs.open(jobid)
        self.count = 0
        """The number of chunks that can be read."""
        self.ended = False
        """Whether the job has ended and all chunks are known."""
        self.readers = 0
        self._task = tasks.start(self._run, "output", on_death="note", job=jobid).task

    def close(self) -> None:
        """Cancel the watch."""
        self._task.cancel()

    async def wait(self, after: int) -> None:
        """Wait until there are more than ``after`` chunks or the output has ended.

        Raises:
            Closed: the server ends its streams.
            Problem: the watch has failed.
        """
        while self.count <= after and not self.ended:
            if self._feed.tail.closed:
                raise self._feed.tail.closed
            if self._failure:
                raise self._failure
            await self._notifier.wait()

    async def _run(self) -> None:
        """Watch until the job has ended. An unexpected error ends the watch, and readers receive its cause."""
        try:
            while not self.ended and not self._feed.tail.closed:
                try:
                    await self._watch()
                except (Unavailable, StoreError) as exc:  # both are temporary: readers continue afterwards
                    log.info("output cannot be followed, will retry", job=self._jobid, reason=str(exc))
                    self._notifier.wake()
                    await asyncio.sleep(_RETRY)
        except Problem as exc:
            log.warning("output cannot be followed", job=self._jobid, reason=exc.detail)
            self._failure = exc
        except Exception as exc:
            self._failure = Problem(f"The output cannot be followed: {type(exc).__name__}.")
            raise
        finally:
            self._notifier.wake()

    async def _watch(self) -> None:
        """Refresh the log after each write, and once more when the job has ended."""
        version = -1
        write: asyncio.Task[int | None] | None = None
        try:
            while True:
                with self._feed.waiters.next_change(self._jobid) as change:  # before the state is read
                    ended = (await self._store.state(self._jobid) or "INACTIVE") == "INACTIVE"
                    await self._refresh()
                    if ended:
                        self.ended = True
                        return
                    if self._feed.tail.closed:
                        return
                    write = write or asyncio.create_task(self._wait_for_write(version), name="output version")
                    waiting: set[asyncio.Future[Any]] = {change, write}
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if write.done() and (new_version := write.result()) is not None:
                        version, write = new_version, None
                        await asyncio.sleep(_GATHER + self.count * _GATHER_PER_CHUNK)
                    elif write.done():  # nothing can write before the job's next event
                        write = None
                        await change
        finally:
            if write:
                write.cancel()

    async def _wait_for_write(self, version: int) -> int | None:
        return await self._logs.instance.wait_for_output(self._jobid, version)

    async def _refresh(self) -> None:
        await self.output.refresh()
        if self.output.count > self.count:
            self.count = self.output.count
            self._notifier.wake()


class LiveOutputs:
    """The live outputs of all jobs that have readers.

    Args:
        logs: the output logs.
        feed: notifies of job events.
        store: state of the jobs.
        tasks: runs the watches.
    """

    def __init__(self, logs: OutputLogs, feed: Feed, store: Store, tasks: Supervisor) -> None:
        self.logs = logs
        self._feed = feed
        self._store = store
        self._tasks = tasks
        self._jobs: dict[int, LiveOutput] = {}

    def join(self, jobid: int) -> LiveOutput:
        """Add a reader; return the live output of the job. Call :meth:`leave` afterwards."""
        live = self._jobs.get(jobid)
        if live is None:
            live = self._jobs[jobid] = LiveOutput(jobid, self.logs, self._feed, self._store, self._tasks)
        live.readers += 1
        return live

    def leave(self, jobid: int) -> None:
        """Remove a reader; stop to watch the job after the last one."""
        live = self._jobs[jobid]
        live.readers -= 1
        if not live.readers:
            live.close()
            del self._jobs[jobid]
