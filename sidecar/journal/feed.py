"""Process the events of the journal: each event reaches the store and the subscribers once.

The instance pushes journal items; one task folds and writes them, in order and in batches. The journal begins with the
whole eventlog of each active job: entries that the store has are skipped and the others are added, so nothing is lost
or counted twice when the server or the connection restarts. The jobs that had ended before come from another process
(:mod:`sidecar.journal.history`); they are written between the live batches. After each write, waiting requests and
subscribers are notified.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import structlog

from sidecar.domain.model import JobEvents, JournalBegin
from sidecar.journal import orphans
from sidecar.journal.active_jobs import ActiveJobs
from sidecar.journal.barrier import Barrier
from sidecar.journal.batch import Batch
from sidecar.journal.counts import JobCounts
from sidecar.journal.history import History
from sidecar.journal.inbox import Inbox
from sidecar.journal.progress import Progress
from sidecar.journal.projection import STRETCH, Projection
from sidecar.journal.retry import STUCK, Retry
from sidecar.journal.tail import Tail
from sidecar.journal.waiters import Waiters
from sidecar.runtime.tasks import Supervisor
from sidecar.store import LoggedEvents, Store
from sidecar.telemetry.instruments import Instruments

log = structlog.get_logger("feed")

_BATCH, _REPLAY_BATCH = 256, 512  # jobs
_BATCH_BYTES = 8 * 1024 * 1024
_CLOSE_TIMEOUT = 3.0  # seconds to write the received events when the server stops
_CHECK_INTERVAL = 1.0  # seconds
_GATHER = 0.02  # seconds between transactions: under load each then contains the events of many jobs


class Feed:
    """Keep the store up to date with an instance's journal.

    Args:
        store: written by the feed; at a stop also by :mod:`sidecar.journal.orphans`.
        instruments: metrics of writes and events.
        log_jobs: whether to log each change of a job's state.
    """

    def __init__(self, store: Store, instruments: Instruments, *, log_jobs: bool = False) -> None:
        self._store = store
        self._inbox = Inbox()
        self._retry = Retry()
        self._progress = Progress()
        self.active_jobs = ActiveJobs()
        """Jobs that have not ended according to the journal, also while nothing can be stored."""
        self.barrier = Barrier(store, self._progress, self._retry, self.active_jobs)
        self.waiters = Waiters()
        self.tail = Tail(store)
        self.counts = JobCounts()
        self._projection = Projection(store, self._retry, self.counts, instruments, log_jobs=log_jobs)
        self._begin_marks: deque[int] = deque()  # for each queued JournalBegin, the job accepted last
        self._begin_mark = 0
        self._task: asyncio.Task[None] | None = None
        self._tasks = Supervisor()
        self._oldest_timestamp = 0.0
        self.history = History(self._inbox.available.set)
        """Reads the jobs that had ended before the journal was followed."""
        self.live = False
        """Whether all active jobs are known, and followed."""
        self.caught_up = False
        """Whether the history has been read, so that lists are complete."""

        self.last_event = time.monotonic()
        """Time of the last item from the instance (:func:`time.monotonic`)."""
        self.replay: Callable[[], None] = lambda: None
        """Request the whole history again."""
        self._starts = 0

    def start(self, tasks: Supervisor | None = None) -> None:
        """Start the task that processes the items."""
        self._tasks = tasks or self._tasks
        self._task = self._tasks.start(self._run, "feed", vital=True).task

    async def close(self) -> None:
        """Write the received events, then end the task; give up after a timeout, as the disk may be full or hang."""
        await self.history.stop()
        if self._task:
            stored = asyncio.create_task(self._progress.wait_for(lambda: self._progress.all_stored))
            await asyncio.wait([self._task, stored], timeout=_CLOSE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not self._progress.all_stored:
                log.error(
                    "the server stops, and some events are not stored",
                    events=self._progress.received - self._progress.stored,
                    reason=self.problem or "there was no time for them",
                )
            for task in (self._task, stored):
                task.cancel()
            await asyncio.gather(self._task, stored, return_exceptions=True)

    @property
    def problem(self) -> str:
        """Why events cannot be written now; empty while they can."""
        if not self._retry.problem and (stuck := self._retry.stuck) > STUCK:
            return f"The store has not responded for {stuck:.0f} s."
        return self._retry.problem

    @property
    def running(self) -> bool:
        """Whether the task runs; if it does not, the server is broken."""
        return self._task is not None and not self._task.done()

    @property
    def active_count(self) -> int:
        """Number of jobs that are not inactive, including accepted ones that are not stored yet.

        While nothing can be stored, or the active jobs are being read, it is the number known from the journal so far.
        """
        if self._retry.stuck > STUCK or not self.live:
            return len(self.active_jobs)
        active = self._projection.active
        return len(active) + sum(jobid not in active for jobid in self.barrier.accepted)

    @property
    def held_count(self) -> int:
        """Number of pending jobs with urgency 0."""
        return len(self._projection.held)

    @property
    def backlog(self) -> int:
        """Number of journal responses that wait to be processed; large ones count as several."""
        return self._inbox.weight

    @property
    def position(self) -> int:
        """Position of the last event in the store."""
        return self._store.position

    @property
    def lag(self) -> float:
        """Age of the oldest live event or accepted job that is not in the store yet (seconds); 0 without any."""
        oldest = self._oldest_timestamp or self._inbox.oldest_timestamp
        return max(self.barrier.accepted.waiting, time.time() - oldest if oldest and self.live else 0.0)

    def push(self, item: JournalBegin | JobEvents) -> None:
        """Receive one item from the instance; see :class:`~sidecar.instance.base.Sink`."""
        self.last_event = time.monotonic()
        self._inbox.push(item)
        self.active_jobs.push(item)
        self._progress.received = self._inbox.received
        self._progress.all_stored = False
        if isinstance(item, JournalBegin):
            self._begin_marks.append(self.barrier.accepted.last_number)
            self.live = self.caught_up = False  # already now: until then lists may show another instance's jobs

    def interrupted(self) -> None:
        """Record that no events follow until the next history; see :class:`~sidecar.instance.base.Sink`."""
        self.active_jobs.interrupted()

    async def wait_idle(self) -> None:
        """Wait until no job is active, and every accepted job has been in the journal."""

        def idle() -> bool:
            return self.active_jobs.complete and not (self.active_jobs or self.barrier.accepted.submitting)

        while not idle():
            try:
                async with asyncio.timeout(_CHECK_INTERVAL):  # while the store is stuck, there are no notifications
                    await self._progress.wait_for(idle)
            except TimeoutError:
                if self._retry.stuck <= STUCK:
                    await self.barrier.check_store()
        await self.barrier.wait_stored()

    async def remove_ended(self, count: int, before: float | None) -> int:
        """Remove the inactive jobs that have ended first; return their number. See :meth:`Store.remove_ended`."""
        return await self._projection.remove_ended(count, before)

    def end_streams(self, reason: str, detail: str) -> None:
        """End every stream with this reason, and wake all waiting requests: the server stops."""
        self._progress.stopping = True
        self.tail.close(reason, detail)
        self.waiters.notify_all()

    async def _run(self) -> None:
        if self._starts:  # the task died within a batch: only the whole history can make up for it
            self._oldest_timestamp, self.live, self.caught_up = 0.0, False, False
            await self.history.stop()
            self.replay()
            self._inbox.available.set()
        self._starts += 1
        await self._projection.recount()
        while True:
            await self._inbox.available.wait()
            self._inbox.available.clear()
            while self._inbox or self.history:
                if self._inbox:
                    await self._step()
                    self.barrier.advance(self._inbox.taken)
                if self.history:
                    await self._merge()
                self._progress.all_stored = not self._inbox
                await self._progress.notify()
            self._progress.all_stored = True
            await self._progress.notify()
            await asyncio.sleep(_GATHER)

    async def _step(self) -> None:
        """Fold and write one batch: up to its limits, a :class:`JournalBegin`, or the end of the replay."""
        batch = Batch(self._store.position)
        limit = _REPLAY_BATCH if self._projection.in_replay else _BATCH
        while self._inbox and len(batch.records) < limit and batch.size < _BATCH_BYTES:
            item, size = self._inbox.take()
            batch.size += size
            if isinstance(item, JournalBegin):
                await self._write(batch)
                await self._begin(item)
                return
            if item.id == -1:
                await self._write(batch)
                await self._go_live()
                return
            if item.events:
                await self._fold(item, batch)
        await self._write(batch)

    async def _fold(self, item: JobEvents, batch: Batch) -> None:
        self._oldest_timestamp = self._oldest_timestamp or item.events[0].timestamp
        try:
            await self._projection.prepare(item, self._inbox)
            if self._projection.fold(item, batch):
                self.barrier.resolve(item.id)
        except Exception as exc:  # a bug triggered by an unforeseen value must not affect other jobs
            self._projection.note_fault(item.id, "response", f"cannot be folded: {exc}", exc_info=exc)
            self.barrier.resolve(item.id)  # nothing more will follow
            if any(event.name == "clean" for event in item.events):
                self._projection.forget(item.id)  # a drain must not wait for it, whatever state it is listed in
        batch.responses += 1
        if batch.responses % STRETCH == 0:
            await asyncio.sleep(0)

    async def _begin(self, begin: JournalBegin) -> None:
        await self.history.stop()
        self._begin_mark = self._begin_marks.popleft()
        await orphans.end_jobs_of_other(self._store, begin.identity)
        aside = await self._retry.until_done(lambda: self._store.begin_instance(begin.identity))
        if aside:
            log.warning("another instance: the store of the previous one was set aside", path=str(aside))
            self.tail.restart()
            self.waiters.notify_all()
            self.barrier.accepted.forget_recent()
            self.barrier.resolve_up_to(self._begin_mark)
        await self._projection.begin()

    async def _go_live(self) -> None:
        """Follow live events from now on, and read the history beside them."""
        await self._projection.go_live()
        if self.history.open is None:
            await self._complete()  # before the server is ready: it never has an incomplete list
        if self._begin_marks:
            return  # the connection was lost meanwhile
        self.live = True
        log.info("active jobs are read", active=self.active_count)
        if self.history.open is not None:
            await self.history.restart(self._tasks)

    async def _merge(self) -> None:
        """Write one frame of the history."""
        frame = self.history.take()
        self._publish(*await self._projection.merge(frame))
        self.history.written()
        if frame.complete:
            await self._complete()

    async def _complete(self) -> None:
        batch = Batch(self._store.position)
        await self._projection.add_purged(batch)
        await self._write(batch)
        self.barrier.resolve_up_to(self._begin_mark)
        await self._projection.complete()
        if not self._begin_marks:
            self.caught_up = True
            log.info("history is read", active=self.active_count, ended=self.history.progress.read)

    async def _write(self, batch: Batch) -> None:
        await self._projection.write(batch)
        self._publish((*batch.records, *batch.deleted), batch.logged)
        self._oldest_timestamp = 0.0

    def _publish(self, jobids: Iterable[int], logged: Sequence[LoggedEvents]) -> None:
        """Notify what waits for these jobs, or for events."""
        for jobid in jobids:
            self.barrier.resolve(jobid)
            self.waiters.notify(jobid)
        if logged:
            self.tail.publish(logged)
