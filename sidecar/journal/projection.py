"""Fold journal responses into the in-memory records of jobs, and write these to the store in batches."""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import Sequence

import structlog
from msgspec import UNSET

from sidecar.domain import restored, untrusted
from sidecar.domain.model import ANONYMOUS, PENDING, Entry, JobEvents
from sidecar.journal import counts, fold
from sidecar.journal.batch import Batch, digests, job_row, search_text
from sidecar.journal.counts import JobCounts, JobGroup
from sidecar.journal.history_frame import Frame
from sidecar.journal.inbox import Inbox
from sidecar.journal.merge import HistoryPart
from sidecar.journal.orphans import UNREADABLE, end_purged
from sidecar.journal.record import Record, RecordCache
from sidecar.journal.retry import Retry
from sidecar.store import LoggedEvents, Row, Store
from sidecar.telemetry.instruments import Instruments

log = structlog.get_logger("feed")
jobs = structlog.get_logger("jobs")

STRETCH = 32  # responses that are folded, or rows that are encoded, in one iteration of the event loop
_MAX_RECORDS = 2000  # in memory; those of other jobs are read from the store at their next event
_MAX_RECORD_BYTES = 32 * 1024 * 1024
_LOOK_UP = 511  # further queued jobs that are looked up in the same query
_FAULTS = 4096  # most recently logged faults, which are not logged again


class Projection:
    """The jobs as the store has them, or will have them after the next write.

    Args:
        store: written by this class; at a stop also by :mod:`sidecar.journal.orphans`.
        retry: calls the store.
        job_counts: updated with each write.
        instruments: metrics of writes and events.
        log_jobs: whether to log each change of a job's state.
    """

    def __init__(
        self, store: Store, retry: Retry, job_counts: JobCounts, instruments: Instruments, *, log_jobs: bool = False
    ) -> None:
        self._store = store
        self._retry = retry
        self._counts = job_counts
        self._instruments = instruments
        self._log_jobs = log_jobs
        self.active: set[int] = set()
        """Jobs that are not inactive."""
        self.held: set[int] = set()
        """Pending jobs with urgency 0."""
        self._records = RecordCache(_MAX_RECORDS, _MAX_RECORD_BYTES)
        self._unvalidated: dict[int, tuple[Record, list[Entry]]] = {}  # with the entries that are withheld
        self._logged_faults: OrderedDict[tuple[int, str], None] = OrderedDict()
        self.in_replay = False
        """Whether the eventlogs of the active jobs are being read."""
        self._known: dict[int, int] = {}  # number of stored events of the next jobs of the replay
        self._ended: set[int] | None = None  # jobs that a frame must not add: ended in the journal, or removed
        self._stored_whole: int | None = None  # a job that the history has stored: its live events are skipped
        self._removed_until = 0.0  # end of the job that was removed last from the store
        self._counting = asyncio.Lock()  # held while jobs are counted in the store, or removed from it

    # ----------------------------------------------------------------------------------------------- history

    async def begin(self) -> None:
        """Start to read the journal, which begins with the whole eventlog of each active job."""
        for state in (self._records, self.active, self.held, self._unvalidated):
            state.clear()
        self._instruments.restarts.inc()
        await self.recount()
        self._removed_until = self._store.gone.until
        self.in_replay, self._known, self._ended = True, {}, set()

    async def go_live(self) -> None:
        """Follow live events from now on."""
        self.in_replay, self._known = False, {}
        await self.recount()

    async def merge(self, frame: Frame) -> tuple[list[int], list[LoggedEvents]]:
        """Write a part of the history, without the jobs that the journal has as well.

        Returns:
            The jobs, and their events.
        """
        part = HistoryPart(frame, self._store.position, self._is_followed)
        for fault in (*frame.faults, *part.faults):
            self.note_fault(*fault)
        totals = self._counts.merged(part.totals)
        if part.rows:
            await self._write_rows(part.rows, part.logged, [], counts.rows(totals))
        self._counts.totals.update(totals)
        for queue, number in part.added.items():
            self._counts.groups[JobGroup(queue or ANONYMOUS, "INACTIVE")] += number
        return [row.id for row in part.rows], part.logged

    async def add_purged(self, batch: Batch) -> None:
        """Add the end of jobs that are active in the store and nowhere else: they have ended unseen."""
        for jobid in await self._retry.until_done(self._store.active_jobids):
            if not self._is_followed(jobid):
                stored = await self._retry.until_done(functools.partial(self._store.record, jobid))
                if stored:
                    raw, _, nevents = stored
                    record, entries = end_purged(restored.job(raw, jobid, UNREADABLE), nevents)
                    batch.records[jobid] = record
                    batch.append(record.job, entries)

    def _is_followed(self, jobid: int) -> bool:
        """Return whether the journal has had events of a job, or the job was removed since the history began."""
        return jobid in self.active or jobid in (self._ended or ())

    async def complete(self) -> None:
        """Note that the history is complete."""
        self._ended = None
        await self.recount()

    async def recount(self) -> None:
        """Load all counts from the store: it was written by an earlier server, or a whole history was added."""

        async def load() -> None:
            async with self._counting:
                self._counts.load(await self._store.counts.by_group(), await self._store.counts.totals())

        await self._retry.until_done(load)

    async def remove_ended(self, count: int, before: float | None) -> int:
        """Remove jobs from the store and the counts; a history that is being read may have them again."""
        async with self._counting:
            removed = await self._store.remove_ended(count, before)
            for jobid, queue in removed.items():
                self._counts.remove(queue, "INACTIVE")
                if self._ended is not None:
                    self._ended.add(jobid)
        return len(removed)

    # -------------------------------------------------------------------------------------------------- fold

    async def prepare(self, item: JobEvents, following: Inbox) -> None:
        """Read from the store what is needed to fold a journal response.

        Args:
            item: the response.
            following: the responses after it.
        """
        jobid = item.id
        if self.in_replay:
            if jobid not in self._known:
                jobids = [jobid, *following.next_jobids(_LOOK_UP)]
                known = await self._retry.until_done(lambda: self._store.counts.events_of(jobids))
                self._known = {each: known.get(each, 0) for each in jobids}
        elif jobid in self.active:
            if jobid not in self._records and jobid not in self._unvalidated:
                await self.restore(jobid)
        elif item.events[0].name == "submit":
            state = await self._retry.until_done(lambda: self._store.state(jobid))
            self._stored_whole = jobid if state == "INACTIVE" else None  # the history is ahead of the live events

    async def restore(self, jobid: int) -> None:
        """Recreate the record of an active job that is not in memory."""
        stored = await self._retry.until_done(lambda: self._store.record(jobid))
        if stored is None:
            return
        raw, spec, nevents = stored
        job = restored.job(raw, jobid, UNREADABLE)
        exceptions = await self._retry.until_done(lambda: self._store.exceptions(jobid))
        record = fold.restore_record(job, spec, nevents, [untrusted.decoded(each.context) for each in exceptions])
        record.stored_digests, record.group = digests(search_text(job), spec), counts.group_of(job)
        self._records.put(record)

    def fold(self, item: JobEvents, batch: Batch) -> bool:
        """Fold a journal response, and add what changed to a batch.

        Returns:
            Whether nothing has to be written: the store has the whole eventlog, or has removed the job.
        """
        record, withheld = self._unvalidated.pop(item.id, (None, []))
        known, new = 0, record is not None
        if self.in_replay:
            known = self._known.get(item.id, 0)
            if item.events[-1].name == "clean" and (len(item.events) <= known or self._was_removed(known, item)):
                return True
        elif item.id == self._stored_whole:
            return True
        else:
            record = record or self._records.get(item.id)
        if record is None:
            record, new = fold.new_record(item), True
            if record is None:
                log.debug("events of an unknown job", job=item.id)
                return False
        entries = fold.extend(record, item)[known:]
        for kind, detail in record.faults.take().items():
            self.note_fault(item.id, kind, detail)
        self.active.add(item.id)  # until its end is written
        if new and record.active and record.job.t_depend is UNSET and not record.invalid:
            # Flux forgets a job that turns out to be invalid, so streams and counters must not have it either.
            self._unvalidated[item.id] = record, [*withheld, *entries]
            return False
        self._records.put(record)
        if record.invalid:
            batch.deleted[item.id] = record
            batch.records.pop(item.id, None)
            self.forget(item.id)
            return False
        batch.records[item.id] = record
        batch.append(record.job, [*withheld, *entries])
        return False

    def _was_removed(self, known: int, item: JobEvents) -> bool:
        """Return whether the store had an ended job and has removed it: jobs are removed in the order of their ends."""
        return not known and (fold.ended_until(item, self._removed_until) or item.id in (self._ended or ()))

    def forget(self, jobid: int) -> None:
        """Drop the in-memory state of a job."""
        self._note_ended(jobid)
        self.held.discard(jobid)
        self._records.discard(jobid)

    def _note_ended(self, jobid: int) -> None:
        self.active.discard(jobid)
        if self._ended is not None:
            self._ended.add(jobid)

    def note_fault(self, jobid: int, kind: str, detail: str, **fields: object) -> None:
        """Log a part of a job that cannot be read, once for each kind."""
        if (jobid, kind) in self._logged_faults:
            return
        self._logged_faults[jobid, kind] = None
        if len(self._logged_faults) > _FAULTS:
            self._logged_faults.popitem(last=False)
        log.warning(
            "a part of a job cannot be read; the job is listed without it",
            job=jobid,
            part=kind,
            reason=detail,
            **fields,
        )

    # ------------------------------------------------------------------------------------------------- write

    async def write(self, batch: Batch) -> None:
        """Write a batch to the store, however long it takes, and update the counts."""
        rows: list[Row] = []
        for record in batch.records.values():
            rows.append(job_row(record))
            if len(rows) % STRETCH == 0:
                await asyncio.sleep(0)
        totals = self._counts.merged(batch.deltas.cells)
        if rows or batch.deleted or batch.logged:
            await self._write_rows(rows, batch.logged, list(batch.deleted), counts.rows(totals))
        self._counts.totals.update(totals)
        for jobid, record in batch.records.items():
            self._count(record, counts.group_of(record.job))
            self._keep(jobid, record)
        for record in batch.deleted.values():
            self._count(record, None)

    async def _write_rows(
        self, rows: list[Row], logged: Sequence[LoggedEvents], deleted: list[int], totals: list[tuple[str, str, str]]
    ) -> None:
        async def write() -> None:
            with self._instruments.store_write():
                await self._store.write(rows, logged, deleted, totals)

        await self._retry.until_done(write)
        self._instruments.events.inc(sum(each.count for each in logged))

    def _count(self, record: Record, group: JobGroup | None) -> None:
        if not self.in_replay:  # after a replay all jobs are recounted: only some of them were counted before
            if self._log_jobs and group:
                self._log_change(record, group)
            self._counts.reclassify(record.group, group)
        record.group = group

    def _log_change(self, record: Record, group: JobGroup) -> None:
        """Log a change of state; changes that are stored together are one line."""
        before = record.group.state if record.group else ""
        if before != group.state:
            job = record.job
            ending = {"result": job.result, "returncode": job.returncode} if group.state == "INACTIVE" else {}
            jobs.info("job", job=job.f58id, state=group.state, was=before, queue=group.queue, **ending)

    def _keep(self, jobid: int, record: Record) -> None:
        """Keep a written record in memory while its job is active and was used recently."""
        self._records.discard(jobid)
        self.held.discard(jobid)
        if not record.active:
            self._note_ended(jobid)
            return
        self._records.put(record)
        if record.job.urgency == 0 and record.job.state in PENDING:
            self.held.add(jobid)
        self._records.evict()
