"""The spine: job events in, store and readers out, each event once.

The instance pushes what its journal says; one task folds it and writes it, in order and in batches. History tells
each job's whole eventlog again, so what the store knows of a job is passed over and the rest added: nothing is lost
or counted twice, whenever the server or the connection began anew. What was written is handed on to who follows.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import structlog
from msgspec import UNSET

from sidecar.domain import restored, untrusted
from sidecar.domain.model import Entry, HistoryBegin, JobEvents
from sidecar.journal import closing, fold
from sidecar.journal import counts as tally
from sidecar.journal.barrier import BOUND, STUCK
from sidecar.journal.batch import Batch, digests, ended_unseen, row, searchable
from sidecar.journal.counts import JobCounts, JobGroup
from sidecar.journal.inbox import Inbox
from sidecar.journal.record import Record, Records
from sidecar.journal.waiters import Waiters
from sidecar.runtime.tasks import Supervisor
from sidecar.store import LoggedEvents, Row, Store, StoreError
from sidecar.telemetry.instruments import Instruments

log = structlog.get_logger("feed")
jobs = structlog.get_logger("jobs")

_BATCH, _HISTORY_BATCH = 256, 512
_STRETCH = 32  # responses that are folded in one turn of the loop
_KEPT = 2000  # jobs that are kept in memory to go on with; the others are read from the store when something happens
_KEPT_SIZE = 32 * 1024 * 1024  # bytes of them
_FAULTS = 4096  # that were logged last, and are not logged again
_BATCH_BYTES = 8 * 1024 * 1024
_CLOSE_TIMEOUT = 3.0  # to write what has arrived when the server leaves (seconds)
_END_JOBS = 60.0  # seconds; events of the next instance wait meanwhile
_LOOK = 1.0  # seconds
_PENDING = frozenset({"NEW", "DEPEND", "PRIORITY", "SCHED"})
_GATHER = 0.02  # between transactions: under load each then holds the events of many jobs


class Feed(Waiters):
    """Takes an instance's events and keeps the store equal to it."""

    def __init__(self, store: Store, meters: Instruments, *, log_jobs: bool = False) -> None:
        super().__init__(store)
        self._log_jobs = log_jobs
        self._store = store
        self._meters = meters
        self.tally = JobCounts()
        """What is counted of jobs."""
        self._inbox = Inbox()
        self._records = Records(_KEPT, _KEPT_SIZE)
        self._new: dict[int, tuple[Record, list[Entry]]] = {}  # not validated yet, with the entries held back
        self._faults: OrderedDict[tuple[int, str], None] = OrderedDict()
        self._active: set[int] = set()
        self._held: set[int] = set()
        self._known: dict[int, int] = {}
        self._history: set[int] | None = None
        self._begins: deque[int] = deque()
        self._accepted_before = 0
        self._task: asyncio.Task[None] | None = None
        self._settled = True
        self._oldest = 0.0
        self.caught_up = False
        """Whether the history has been read: lists are complete from then on."""

        self.last_event = time.monotonic()
        """When the instance last sent an item (:func:`time.monotonic`)."""
        self.begin_again: Callable[[], None] = lambda: None
        """Has the instance tell its history again."""
        self._lives = 0

    def start(self, tasks: Supervisor | None = None) -> None:
        """Begin to work on what is pushed, in a task of its own."""
        self._task = (tasks or Supervisor()).start(self._run, "feed", vital=True).task

    async def close(self) -> None:
        """Write what has arrived, within a bound, then end: a disk may be full, or hang."""
        if self._task:
            settled = asyncio.create_task(self._until(lambda: self._settled))
            await asyncio.wait([self._task, settled], timeout=_CLOSE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if not self._settled:
                log.error(
                    "the server leaves, and some events are not stored",
                    events=self._pushed - self._written,
                    reason=self.problem or "there was no time for them",
                )
            for task in (self._task, settled):
                task.cancel()
            await asyncio.gather(self._task, settled, return_exceptions=True)

    @property
    def problem(self) -> str:
        """Why events cannot be written just now; empty while they can."""
        if not self.steady.problem and (stuck := self.steady.stuck) > STUCK:
            return f"The store has not answered for {stuck:.0f} s."
        return self.steady.problem

    @property
    def running(self) -> bool:
        """Whether events are being worked on; false means that the server is broken."""
        return self._task is not None and not self._task.done()

    @property
    def active(self) -> int:
        """How many jobs are not inactive: with those that were accepted and are not stored yet.

        Where nothing can be stored, or the history is being read, it is what the instance has told so far.
        """
        if self.steady.stuck > STUCK or not self.caught_up:
            return len(self.unended)
        return len(self._active) + sum(fluid not in self._active for fluid in self._expected)

    @property
    def backlog(self) -> int:
        """How many responses of the journal wait to be worked on; large ones count as several."""
        return self._inbox.weight

    @property
    def position(self) -> int:
        """Position of the last event that is in the store."""
        return self._store.position

    @property
    def lag(self) -> float:
        """Age of the oldest live event or accepted job that is not in the store yet (seconds); 0 without any."""
        oldest = self._oldest or self._inbox.oldest
        return max(self.waiting, time.time() - oldest if oldest and self.caught_up else 0.0)

    def held(self) -> int:
        """How many jobs wait for somebody to raise their urgency from 0."""
        return len(self._held)

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take one item from the instance; see :class:`~sidecar.instance.base.Sink`."""
        self.last_event = time.monotonic()
        self._inbox.push(item)
        self.unended.push(item)
        self._pushed = self._inbox.pushed
        self._settled = False
        if isinstance(item, HistoryBegin):
            self._begins.append(self._number)
            self.caught_up = False  # from now on, and not from when it is worked on: lists are another instance's

    def interrupted(self) -> None:
        """Note that the instance tells no more until its next history; see :class:`~sidecar.instance.base.Sink`."""
        self.unended.interrupted()

    async def idle(self) -> None:
        """Wait until no job is active, and none was accepted that the instance has not told of."""

        def ended() -> bool:
            return self.unended.known and not (self.unended or self._accepting)

        while not ended():
            try:
                async with asyncio.timeout(_LOOK):  # nothing tells of what arrives while the store is stuck
                    await self._until(ended)
            except TimeoutError:
                if self.steady.stuck <= STUCK:
                    await self._look_up()
        await self.stored()

    async def stored(self) -> None:
        """Wait until all that the instance has told is stored, for as long as the store makes progress."""

        def done() -> bool:
            return self._settled or self.steady.stuck > STUCK

        while not done() and not self._leaving:
            before = self._written
            if not await self._wait(done, BOUND) and self._written == before:
                return

    # ------------------------------------------------------------------------------------------------ the task

    async def _run(self) -> None:
        if self._lives:  # this task has died in the middle of a batch: only the whole history makes up for it
            self._oldest, self.caught_up = 0.0, False
            self.begin_again()
            self._inbox.arrived.set()
        self._lives += 1
        await self._count_anew()
        while True:
            await self._inbox.arrived.wait()
            self._inbox.arrived.clear()
            while self._inbox:
                await self._step()
                self._advance(self._inbox.taken)
                async with self._changed:
                    self._changed.notify_all()
            self._settled = True
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(_GATHER)

    async def _step(self) -> None:
        """Fold and write one batch: events up to a bound, or to a mark between history and live."""
        batch = Batch(self._store.position)
        bound = _BATCH if self._history is None else _HISTORY_BATCH
        while self._inbox and len(batch.touched) < bound and batch.size < _BATCH_BYTES:
            item, size = self._inbox.take()
            batch.size += size
            if isinstance(item, HistoryBegin):
                await self._write(batch)
                await self._begin(item)
                return
            if item.id == -1:
                await self._end_history(batch)
                await self._write(batch)
                self._give_up(self._accepted_before)
                self._history, self._known = None, {}
                await self._count_anew()
                self.caught_up = True  # and only now: what was told last is written too
                log.info("history is read", active=self.active)
                return
            if not item.events:
                continue
            self._oldest = self._oldest or item.events[0].timestamp
            try:
                await self._fold(item, batch)
            except Exception as exc:  # a fault of ours, for something that was not thought of: the others go on
                self._note(item.id, "response", f"cannot be folded: {exc}", exc_info=exc)
                self._heard(item.id)  # there is no more to wait for
                if any(event.name == "clean" for event in item.events):
                    self._forget(item.id)  # whatever it is listed as, a drain does not wait for it
            batch.taken += 1
            if batch.taken % _STRETCH == 0:
                await asyncio.sleep(0)
        await self._write(batch)

    async def _fold(self, item: JobEvents, batch: Batch) -> None:
        record, held_back = self._new.pop(item.id, (None, []))
        known, new = 0, record is not None
        if self._history is None:
            record = record or self._records.get(item.id) or await self._recall(item.id)
        else:
            self._history.add(item.id)
            known = self._known.get(item.id, 0)
            if len(item.events) <= known and item.events[-1].name == "clean":
                self._heard(item.id)
                return  # the store knows this job to its end
        if record is None:
            record, new = fold.new(item), True
            if record is None:
                log.debug("events of an unknown job", job=item.id)
                return
        entries = fold.extend(record, item)[known:]
        for kind, detail in record.faults.take().items():
            self._note(item.id, kind, detail)
        self._active.add(item.id)  # until it is written that it has ended
        if new and record.active and record.job.t_depend is UNSET and not record.invalid:
            # Flux forgets a job that is not valid: then no stream and no counter may have had it.
            self._new[item.id] = record, [*held_back, *entries]
            return
        self._records.put(record)
        if record.invalid:
            batch.dropped[item.id] = record
            batch.touched.pop(item.id, None)
            self._forget(item.id)
            return
        batch.touched[item.id] = record
        batch.tell(record.job, [*held_back, *entries])

    def _note(self, job: int, kind: str, detail: str, **more: object) -> None:
        """Log what cannot be read of a job: each kind once, however often it is told again."""
        if (job, kind) in self._faults:
            return
        self._faults[job, kind] = None
        if len(self._faults) > _FAULTS:
            self._faults.popitem(last=False)
        log.warning(
            "a part of a job cannot be read; the job is listed without it", job=job, part=kind, reason=detail, **more
        )

    async def _recall(self, fluid: int) -> Record | None:
        """Go on with a job that is known but was not kept in memory."""
        if fluid not in self._active:
            return None
        found = await self.steady.until_done(lambda: self._store.record(fluid))
        if found is None:
            return None
        raw, spec, nevents = found
        job = restored.job(raw, fluid, closing.ACTIVE)
        exceptions = await self.steady.until_done(lambda: self._store.exceptions(fluid))
        record = fold.again(job, spec, nevents, [untrusted.decoded(each.context) for each in exceptions])
        record.written, record.counted = digests(searchable(job), spec), tally.group_of(job)
        return record

    def _forget(self, fluid: int) -> None:
        self._active.discard(fluid)
        self._held.discard(fluid)
        self._records.drop(fluid)

    async def _begin(self, begin: HistoryBegin) -> None:
        self._accepted_before = self._begins.popleft()
        await self._end_those_of_another(begin.identity)
        aside = await self.steady.until_done(lambda: self._store.begin_instance(begin.identity))
        if aside:
            log.warning("this is another instance: the store of the last one was set aside", path=str(aside))
            self.tail.restart()
            self.release()
            self._recent.clear()
            self._give_up(self._accepted_before)
        for known in (self._records, self._active, self._held, self._new):
            known.clear()
        self._meters.restarts.inc()
        await self._count_anew()
        self._known = await self.steady.until_done(self._store.progress)
        self._history = set()

    async def _end_those_of_another(self, identity: str) -> None:
        """End the jobs of the instance that was here before: its store is about to be set aside."""
        try:
            if await self._store.instance() not in ("", identity):
                await closing.end_active_jobs(self._store, within=_END_JOBS)
        except StoreError as exc:
            log.error("jobs of the last instance stay as they were seen last", reason=str(exc))

    async def _count_anew(self) -> None:
        """Count what the store holds: another server has written it, or this one a whole history."""
        self.tally.load(
            await self.steady.until_done(self._store.kinds), await self.steady.until_done(self._store.totals)
        )

    async def _end_history(self, batch: Batch) -> None:
        """Close the history: what the store holds as active and the instance does not know has ended unseen."""
        for fluid in await self.steady.until_done(self._store.active):
            if self._history is not None and fluid not in self._history and fluid not in batch.touched:
                raw = await self.steady.until_done(functools.partial(self._store.job, fluid))
                if raw:
                    record, entries = ended_unseen(restored.job(raw, fluid, closing.ACTIVE), self._known.get(fluid, 0))
                    batch.touched[fluid] = record
                    batch.tell(record.job, entries)

    async def _write(self, batch: Batch) -> None:
        rows: list[Row] = []
        for record in batch.touched.values():
            rows.append(row(record))
            if len(rows) % _STRETCH == 0:
                await asyncio.sleep(0)
        totals = self.tally.with_more(batch.happened.cells)
        if rows or batch.dropped or batch.told:
            await self._persist(rows, batch.told, list(batch.dropped), tally.rows(totals))
        self.tally.totals.update(totals)
        for fluid, record in batch.touched.items():
            self._count(record, tally.group_of(record.job))
            self._keep(fluid, record)
        for record in batch.dropped.values():
            self._count(record, None)
        for fluid in (*batch.touched, *batch.dropped):
            self._tell(fluid)
        if batch.told:
            self.tail.publish(batch.told)
        self._oldest = 0.0

    def _count(self, record: Record, kind: JobGroup | None) -> None:
        if self._history is None:  # else all are counted at its end: some were counted before, and some not
            if self._log_jobs and kind:
                self._log(record, kind)
            self.tally.move(record.counted, kind)
        record.counted = kind

    def _log(self, record: Record, kind: JobGroup) -> None:
        """Write the line of a change: from what to what, where several came together."""
        was = record.counted.state if record.counted else ""
        if was != kind.state:
            job = record.job
            ending = {"result": job.result, "returncode": job.returncode} if kind.state == "INACTIVE" else {}
            jobs.info("job", job=job.f58id, state=kind.state, was=was, queue=kind.queue, **ending)

    def _keep(self, fluid: int, record: Record) -> None:
        """Keep the job while it is active, and in memory if it is one of those that were touched last."""
        self._records.drop(fluid)
        self._held.discard(fluid)
        if not record.active:
            self._active.discard(fluid)
            return
        self._records.put(record)
        if record.job.urgency == 0 and record.job.state in _PENDING:
            self._held.add(fluid)
        self._records.shrink()

    async def _persist(
        self, rows: list[Row], told: Sequence[LoggedEvents], dropped: list[int], totals: list[tuple[str, str, str]]
    ) -> None:
        """Write, for as long as it takes."""

        async def write() -> None:
            with self._meters.store_write():
                await self._store.write(rows, told, dropped, totals)

        await self.steady.until_done(write)
        self._meters.events.inc(sum(each.count for each in told))
