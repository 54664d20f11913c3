"""The spine: job events in, store and readers out, each event once.

The instance pushes what its journal says; one task folds it and writes it, in order and in batches. History tells
each job's whole eventlog again, so what the store knows of a job is passed over and the rest added: nothing is lost
or counted twice, whenever the server or the connection began anew. What was written is handed on to who follows.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence

import msgspec
import structlog

from sidecar import fold, tally
from sidecar.audience import Audience
from sidecar.batch import Batch, ended_unseen, row, searchable
from sidecar.fold import Record
from sidecar.instance import HistoryBegin
from sidecar.meters import Meters
from sidecar.model import Job, JobEvents
from sidecar.store import Row, Store, StoreError, Told
from sidecar.tally import Kind, Tally

log = structlog.get_logger("feed")
jobs = structlog.get_logger("jobs")

_BATCH, _HISTORY_BATCH = 256, 512
_STRETCH = 32  # responses that are folded in one turn of the loop
_KEPT = 2000  # jobs that are kept in memory to go on with; the others are read from the store when something happens
_STORE_RETRY = 1.0
_GATHER = 0.02  # between transactions: under load each then holds the events of many jobs


class Feed(Audience):
    """Takes an instance's events and keeps the store equal to it."""

    def __init__(self, store: Store, meters: Meters, *, log_jobs: bool = False) -> None:
        super().__init__(store)
        self._log_jobs = log_jobs
        self._store = store
        self._meters = meters
        self.tally = Tally()
        """What is counted of jobs."""
        self._inbox: deque[HistoryBegin | JobEvents] = deque()
        self._arrived = asyncio.Event()
        self._records: OrderedDict[int, Record] = OrderedDict()
        self._active: set[int] = set()
        self._held: set[int] = set()
        self._known: dict[int, int] = {}
        self._history: set[int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._settled = True
        self._oldest = 0.0
        self.problem = ""
        """Why events cannot be written just now; empty while they can."""
        self.caught_up = False
        """Whether the history has been read: lists are complete from then on."""

    def start(self) -> None:
        """Begin to work on what is pushed."""
        self._task = asyncio.create_task(self._run(), name="feed")

    async def close(self) -> None:
        """Write what has arrived, then end."""
        if self._task:
            settled = asyncio.create_task(self._until(lambda: self._settled))
            await asyncio.wait([self._task, settled], return_when=asyncio.FIRST_COMPLETED)
            for task in (self._task, settled):
                task.cancel()
            await asyncio.gather(self._task, settled, return_exceptions=True)

    @property
    def running(self) -> bool:
        """Whether events are being worked on; false means that the server is broken."""
        return self._task is not None and not self._task.done()

    @property
    def active(self) -> int:
        """How many jobs are not inactive."""
        return len(self._active)

    @property
    def backlog(self) -> int:
        """How many responses of the journal wait to be worked on."""
        return len(self._inbox)

    @property
    def position(self) -> int:
        """Position of the last event that is in the store."""
        return self._store.position

    @property
    def lag(self) -> float:
        """Age of the oldest live event that is not in the store yet (seconds); 0 when there is none."""
        oldest = self._oldest
        if not oldest and self._inbox and isinstance(first := self._inbox[0], JobEvents) and first.events:
            oldest = first.events[0].timestamp
        return max(0.0, time.time() - oldest) if oldest and self.caught_up else 0.0

    def held(self) -> int:
        """How many jobs wait for somebody to raise their urgency from 0."""
        return len(self._held)

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take one item from the instance; see :class:`~sidecar.instance.base.Sink`."""
        self._inbox.append(item)
        self._settled = False
        if isinstance(item, HistoryBegin):
            self.caught_up = False  # from now on, and not from when it is worked on: lists are another instance's
        self._arrived.set()

    async def idle(self) -> None:
        """Wait until no job is active."""
        await self._until(lambda: self.caught_up and self._settled and not self._active)

    # ------------------------------------------------------------------------------------------------ the task

    async def _run(self) -> None:
        await self._count_anew()
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._inbox:
                await self._step()
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
        while self._inbox and len(batch.touched) < bound:
            item = self._inbox.popleft()
            if isinstance(item, HistoryBegin):
                await self._write(batch)
                await self._begin(item)
                return
            if item.id == -1:
                await self._end_history(batch)
                await self._write(batch)
                self._history, self._known = None, {}
                await self._count_anew()
                self.caught_up = True  # and only now: what was told last is written too
                log.info("history is read", active=self.active)
                return
            self._oldest = self._oldest or item.events[0].timestamp
            try:
                await self._fold(item, batch)
            except (KeyError, TypeError, ValueError):  # one event that is not as RFC 21 has it must not end the rest
                log.exception("an event cannot be understood", job=item.id)
            batch.taken += 1
            if batch.taken % _STRETCH == 0:
                await asyncio.sleep(0)
        await self._write(batch)

    async def _fold(self, item: JobEvents, batch: Batch) -> None:
        record, known = None, 0
        if self._history is None:
            record = self._records.get(item.id) or await self._recall(item.id)
        else:
            self._history.add(item.id)
            known = self._known.get(item.id, 0)
            if len(item.events) <= known and item.events[-1].name == "clean":
                self._expected.pop(item.id, None)
                return  # the store knows this job to its end
        if record is None:
            record = fold.new(item)
            if record is None:
                log.debug("events of an unknown job", job=item.id)
                return
            self._active.add(item.id)
        self._records[item.id] = record
        entries = fold.extend(record, item)[known:]
        if record.invalid:
            batch.dropped[item.id] = record
            batch.touched.pop(item.id, None)
            self._forget(item.id)
        else:
            batch.touched[item.id] = record
        batch.tell(record.job, entries)

    async def _recall(self, fluid: int) -> Record | None:
        """Go on with a job that is known but was not kept in memory."""
        if fluid not in self._active:
            return None
        found = await self._store.record(fluid)
        if found is None:
            return None
        raw, spec, nevents, eventlog = found
        job = msgspec.json.decode(raw, type=Job)
        exceptions = [msgspec.json.decode(entry.context) for entry in eventlog if entry.name == "exception"]
        record = fold.again(job, msgspec.json.decode(spec), nevents, exceptions)
        record.written, record.counted = (searchable(job), spec), tally.kind(job)
        return record

    def _forget(self, fluid: int) -> None:
        self._active.discard(fluid)
        self._held.discard(fluid)
        self._records.pop(fluid, None)

    async def _begin(self, begin: HistoryBegin) -> None:
        aside = await self._store.begin_instance(begin.identity)
        if aside:
            log.warning("this is another instance: the store of the last one was set aside", path=str(aside))
            self.tail.restart()
            self.release()
        for known in (self._records, self._active, self._held, self._recent):
            known.clear()
        self._meters.restarts.inc()
        await self._count_anew()
        self._known = await self._store.progress()
        self._history = set()

    async def _count_anew(self) -> None:
        """Count what the store holds: another server has written it, or this one a whole history."""
        self.tally.load(await self._store.kinds(), await self._store.totals())

    async def _end_history(self, batch: Batch) -> None:
        """Close the history: what the store holds as active and the instance does not know has ended unseen."""
        for fluid in await self._store.active():
            if self._history is not None and fluid not in self._history and fluid not in batch.touched:
                raw = await self._store.job(fluid)
                if raw:
                    record, entries = ended_unseen(msgspec.json.decode(raw, type=Job), self._known.get(fluid, 0))
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
            self._count(record, tally.kind(record.job))
            self._keep(fluid, record)
        for record in batch.dropped.values():
            self._count(record, None)
        for fluid in (*batch.touched, *batch.dropped):
            self._tell(fluid)
        if batch.told:
            self.tail.publish(batch.told)
        self._oldest = 0.0

    def _count(self, record: Record, kind: Kind | None) -> None:
        if self._history is None:  # else all are counted at its end: some were counted before, and some not
            if self._log_jobs and kind:
                self._log(record, kind)
            self.tally.move(record.counted, kind)
        record.counted = kind

    def _log(self, record: Record, kind: Kind) -> None:
        """Write the line of a change: from what to what, where several came together."""
        was = record.counted.state if record.counted else ""
        if was != kind.state:
            job = record.job
            ending = {"result": job.result, "returncode": job.returncode} if kind.state == "INACTIVE" else {}
            jobs.info("job", job=job.f58id, state=kind.state, was=was, queue=kind.queue, **ending)

    def _keep(self, fluid: int, record: Record) -> None:
        """Keep the job while it is active, and in memory if it is one of those that were touched last."""
        self._records.pop(fluid, None)
        self._held.discard(fluid)
        if not record.active:
            self._active.discard(fluid)
            return
        self._records[fluid] = record  # at the end: the order is that of the last touch
        if record.job.urgency == 0 and record.job.state == "SCHED":
            self._held.add(fluid)
        if len(self._records) > _KEPT:
            self._records.popitem(last=False)

    async def _persist(
        self, rows: list[Row], told: Sequence[Told], dropped: list[int], totals: list[tuple[str, str, str]]
    ) -> None:
        """Write, for as long as it takes: a full disk delays what is seen of jobs, and loses none of it."""
        while True:
            try:
                with self._meters.store_write():
                    await self._store.write(rows, told, dropped, totals)
            except StoreError as exc:
                if self.problem != str(exc):
                    log.error("events cannot be stored", reason=str(exc))
                self.problem = str(exc)
                await asyncio.sleep(_STORE_RETRY)
            else:
                self.problem = ""
                self._meters.events.inc(sum(each.count for each in told))
                return
