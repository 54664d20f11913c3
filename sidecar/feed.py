"""The spine: job events in, store and waiting callers out, each event once.

The instance pushes what its journal says; one task folds it and writes it, in order and in batches. History tells
each job's whole eventlog again, so a job that the store knows as far as that is passed over, and any other is folded
anew from its first event: nothing is lost or counted twice, whenever the server or the connection began anew.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable

import msgspec
import structlog

from sidecar import fold
from sidecar.fold import Record
from sidecar.instance import HistoryBegin
from sidecar.model import Event, Job, JobEvents
from sidecar.store import Row, Store, StoreError

log = structlog.get_logger("feed")

_BATCH = 256
_STORE_RETRY = 1.0
_GATHER = 0.02  # between transactions: under load each then holds the events of many jobs
_encode = msgspec.json.Encoder().encode


class Feed:
    """Takes an instance's events and keeps the store equal to it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._inbox: deque[HistoryBegin | JobEvents] = deque()
        self._arrived = asyncio.Event()
        self._records: dict[int, Record] = {}
        self._texts: dict[int, str] = {}
        self._unwritten: set[int] = set()
        self._known: dict[int, int] = {}
        self._history: set[int] | None = None
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._settled = True
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
        return len(self._records)

    def held(self) -> int:
        """How many jobs wait for somebody to raise their urgency from 0."""
        return sum(record.job.urgency == 0 and record.job.state == "SCHED" for record in self._records.values())

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take one item from the instance; see :class:`~sidecar.instance.base.Sink`."""
        self._inbox.append(item)
        self._settled = False
        if isinstance(item, HistoryBegin):
            self.caught_up = False  # from now on, and not from when it is worked on: lists are another instance's
        self._arrived.set()

    async def seen(self, fluid: int, within: float) -> None:
        """Wait until a job that was just accepted is in the store, so that every list shows it from then on.

        Raises:
            TimeoutError: it was not told of in time.
        """
        if fluid in self._records and fluid not in self._unwritten:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(fluid, []).append(waiter)
        try:
            # A short job may have ended, and been written, before whoever submitted it comes to ask.
            if fluid in self._records or await self._store.state(fluid) is None:
                async with asyncio.timeout(within):
                    await waiter
        finally:
            waiters = self._waiting.get(fluid, [])
            if waiter in waiters:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[fluid]

    async def idle(self) -> None:
        """Wait until no job is active."""
        await self._until(lambda: self.caught_up and self._settled and not self._records)

    async def _until(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    # ------------------------------------------------------------------------------------------------ the task

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._inbox:
                await self._step()
            self._settled = True
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(_GATHER)

    async def _step(self) -> None:
        """Fold and write one batch: events up to a bound, or to a mark between history and live."""
        touched: dict[int, Record] = {}
        dropped: set[int] = set()
        history_ends = False
        while self._inbox and len(touched) < _BATCH:
            item = self._inbox.popleft()
            if isinstance(item, HistoryBegin):
                await self._write(touched, dropped)
                await self._begin(item)
                return
            if item.id == -1:
                await self._end_history(touched)
                history_ends = True
                break
            try:
                record = self._fold(item)
            except (KeyError, TypeError, ValueError):  # one event that is not as RFC 21 has it must not end the rest
                log.exception("an event cannot be understood", job=item.id)
                continue
            if record is not None and record.invalid:
                dropped.add(item.id)
                touched.pop(item.id, None)
                self._records.pop(item.id, None)
                self._unwritten.discard(item.id)
                self._texts.pop(item.id, None)
            elif record is not None:
                touched[item.id] = record
        await self._write(touched, dropped)
        if history_ends:  # and only now: what was told last is written too
            self.caught_up = True
            log.info("history is read", active=self.active)

    def _fold(self, item: JobEvents) -> Record | None:
        record = self._records.get(item.id)
        if self._history is not None:
            self._history.add(item.id)
            if len(item.events) <= self._known.get(item.id, 0) and item.events[-1].name == "clean":
                return None  # the store knows this job to its end
            record = None
        if record is None:
            record = fold.new(item)
            if record is None:
                if self._history is None:
                    log.debug("events of an unknown job", job=item.id)
                return None
            self._records[item.id] = record
            self._unwritten.add(item.id)
        fold.extend(record, item)
        return record

    async def _begin(self, begin: HistoryBegin) -> None:
        aside = await self._store.begin_instance(begin.identity)
        if aside:
            log.warning("this is another instance: the store of the last one was set aside", path=str(aside))
        self._records.clear()
        self._unwritten.clear()
        self._texts.clear()
        self._known = await self._store.progress()
        self._history = set()

    async def _end_history(self, touched: dict[int, Record]) -> None:
        """Close the history: what the store holds as active and the instance does not know has ended unseen."""
        for fluid in await self._store.active():
            if self._history is not None and fluid not in self._history:
                raw = await self._store.job(fluid)
                if raw:
                    touched[fluid] = _ended_unseen(msgspec.json.decode(raw, type=Job), self._known.get(fluid, 0))
        self._history, self._known = None, {}

    async def _write(self, touched: dict[int, Record], dropped: Iterable[int]) -> None:
        rows = [self._row(record) for record in touched.values()]
        dropped = list(dropped)
        if rows or dropped:
            await self._persist(rows, dropped)
        for fluid, record in touched.items():
            self._unwritten.discard(fluid)
            if not record.active:
                self._records.pop(fluid, None)
                self._texts.pop(fluid, None)
            for waiter in self._waiting.pop(fluid, ()):
                if not waiter.done():
                    waiter.set_result(None)

    async def _persist(self, rows: list[Row], dropped: list[int]) -> None:
        """Write, for as long as it takes: a full disk delays what is seen of jobs, and loses none of it."""
        while True:
            try:
                await self._store.write(rows, dropped)
            except StoreError as exc:
                if self.problem != str(exc):
                    log.error("events cannot be stored", reason=str(exc))
                self.problem = str(exc)
                await asyncio.sleep(_STORE_RETRY)
            else:
                self.problem = ""
                return

    def _row(self, record: Record) -> Row:
        job = record.job
        text = _searchable(job)
        changed = self._texts.get(job.id) != text
        self._texts[job.id] = text
        return Row(
            id=job.id,
            t_submit=job.t_submit,
            t_run=job.t_run or None,
            state=job.state,
            result=job.result,
            userid=job.userid,
            username=job.username,
            queue=job.queue,
            name=job.name,
            nnodes=job.nnodes or None,
            ntasks=job.ntasks or None,
            runtime=job.runtime or None,
            nevents=record.nevents,
            json=_encode(job),
            text=text if changed else None,
        )


def _searchable(job: Job) -> str:
    """What a search looks through; state and result are columns of their own."""
    parts = [
        job.f58id,
        str(job.id),
        job.name,
        " ".join(job.command),
        job.cwd,
        job.queue,
        job.username,
        job.nodelist,
    ]
    return "\n".join([*parts, job.exception.type, job.exception.note])


def _ended_unseen(job: Job, nevents: int) -> Record:
    """End a job that its instance has forgotten: it finished and was purged, or its engine died with it."""
    record = Record(job, {}, nevents=0)
    note = "the instance no longer knows this job: how it ended was not seen"
    now = time.time()
    fold.apply(record, Event(now, "exception", {"type": "lost", "severity": 0, "note": note}))
    fold.apply(record, Event(now, "clean", {}))
    record.nevents = nevents
    return record
