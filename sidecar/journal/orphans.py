"""End jobs in the store when their real end cannot be observed: without this they would be shown as running for ever.

This concerns jobs that Flux has purged, and the active jobs of an instance that has ended. A server that stops with its
instance ends these before it exits, within the time of a stop. Those that are left (no time, or the server was killed)
are ended when the store is set aside for another instance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

import structlog

from sidecar.domain import restored
from sidecar.domain.model import PENDING, Entry, Event, Job
from sidecar.journal import counts, fold
from sidecar.journal.batch import Batch, digests, job_row, search_text
from sidecar.journal.counts import JobCounts
from sidecar.journal.record import Record
from sidecar.store import Store, StoreError

log = structlog.get_logger("store")

_BATCH = 256
_END_JOBS = 60.0  # seconds; the events of the next instance wait meanwhile
UNREADABLE = {"state": "RUN"}
"""Column values assumed for an active job with an unreadable row."""
_STOPPED = "the instance was stopped before this job could start"
_UNSEEN = "the instance ended before the end of this job was seen"
_PURGED = "the instance no longer knows this job: how it ended was not seen"


async def end_active_jobs(store: Store, *, within: float, stopped: bool = False) -> None:
    """End the jobs that the store has as active.

    Args:
        store: store of an instance that has ended; nothing else may write to it meanwhile.
        within: time limit (seconds); jobs that are left then stay as they are.
        stopped: whether this server has just stopped the instance, which cancelled the pending jobs.

    Raises:
        StoreError: the store cannot be read or written.
    """
    started = time.monotonic()
    active = await store.active_jobids()
    if not active:
        return
    totals = JobCounts()
    totals.load((), await store.counts.totals())
    remaining = iter(active)
    ended = 0
    while time.monotonic() - started < within and (jobids := tuple(islice(remaining, _BATCH))):
        ended += await _end_jobs(store, totals, jobids, stopped=stopped)
    log.info("jobs of an ended instance are ended in the store", jobs=ended, left=len(active) - ended)


async def end_jobs_of_other(store: Store, identity: str) -> None:
    """End the jobs of the previous instance, if it was another one: its store is about to be set aside.

    Args:
        store: the store.
        identity: of the instance that is connected now.
    """
    try:
        if await store.instance() not in ("", identity):
            await end_active_jobs(store, within=_END_JOBS)
    except StoreError as exc:
        log.error("jobs of the previous instance keep their last known state", reason=str(exc))


async def _end_jobs(store: Store, totals: JobCounts, jobids: Sequence[int], *, stopped: bool) -> int:
    batch = Batch(store.position)
    for jobid in jobids:
        if stored := await store.record(jobid):
            raw, spec, nevents = stored
            job = restored.job(raw, jobid, UNREADABLE)
            cancelled = stopped and job.state in PENDING
            record = Record(job, spec)
            entries = _end(record, nevents, "cancel" if cancelled else "lost", _STOPPED if cancelled else _UNSEEN)
            record.stored_digests = digests(search_text(job), spec)  # to write the search text takes too long
            batch.records[jobid] = record
            batch.append(record.job, entries)
    changed = totals.merged(batch.deltas.cells)
    await store.write([job_row(record) for record in batch.records.values()], batch.logged, totals=counts.rows(changed))
    totals.totals.update(changed)
    return len(batch.records)


def end_purged(job: Job, nevents: int) -> tuple[Record, list[Entry]]:
    """End a job that its instance no longer knows: Flux has purged it, or the embedded engine has restarted.

    Args:
        job: the job as stored.
        nevents: number of entries in its eventlog.

    Returns:
        Its record, and the entries to append to its eventlog.
    """
    record = Record(job, b"{}", stored_digests=digests("", b"{}"))  # the stored jobspec stays
    return record, _end(record, nevents, "lost", _PURGED)


def _end(record: Record, nevents: int, kind: str, note: str) -> list[Entry]:
    now = time.time()
    events = (
        Event(now, "exception", {"type": kind, "severity": 0, "note": note}),
        Event(now, "clean", {}),
    )
    entries = [entry for event in events if (entry := fold.apply(record, event))]
    record.nevents = nevents  # the instance's count: with these entries in it, its next events would look stored
    return entries
