"""The jobs of an instance that is gone: they are ended in the store, which would show them pending or running for ever.

Nothing more will be heard of them. A server that leaves with its instance ends them before it goes, for as long as a
stop may take; what it had no time for, or a server that was killed could not do, is done when another instance's jobs
take their place and the file is set aside.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import islice

import structlog

from sidecar.domain import restored
from sidecar.domain.model import Entry, Event, Job
from sidecar.journal import counts as tally
from sidecar.journal import fold
from sidecar.journal.batch import Batch, digests, row, searchable
from sidecar.journal.counts import JobCounts
from sidecar.journal.record import Record
from sidecar.store import Store

log = structlog.get_logger("store")

_BATCH = 256
_PENDING = ("NEW", "DEPEND", "PRIORITY", "SCHED")
ACTIVE = {"state": "RUN"}
"""What is known of a job that cannot be read: it is one of those that are active."""
_STOPPED = "the instance was stopped before this job could start"
_UNSEEN = "the instance ended before the end of this job was seen"


async def end_active_jobs(store: Store, *, within: float, stopped: bool = False) -> None:
    """End every job that the store holds as active.

    Args:
        store: of the instance that is gone; nothing else writes to it meanwhile.
        within: how long this may take (seconds); the jobs that it has no time for stay as they are.
        stopped: whether it was stopped by this server just now, so that a pending job was cancelled.

    Raises:
        StoreError: it cannot be read or written.
    """
    begun = time.monotonic()
    active = await store.active()
    if not active:
        return
    totals = JobCounts()
    totals.load((), await store.totals())
    left = iter(active)
    ended = 0
    while time.monotonic() - begun < within and (some := tuple(islice(left, _BATCH))):
        ended += await _end(store, totals, some, stopped=stopped)
    log.info("jobs of the instance that is gone are ended in the store", jobs=ended, left=len(active) - ended)


async def _end(store: Store, totals: JobCounts, jobs: Sequence[int], *, stopped: bool) -> int:
    batch = Batch(store.position)
    for fluid in jobs:
        if found := await store.record(fluid):
            raw, spec, nevents = found
            record, entries = _ended(restored.job(raw, fluid, ACTIVE), spec, nevents, stopped=stopped)
            batch.touched[fluid] = record
            batch.tell(record.job, entries)
    more = totals.with_more(batch.happened.cells)
    await store.write([row(record) for record in batch.touched.values()], batch.told, totals=tally.rows(more))
    totals.totals.update(more)
    return len(batch.touched)


def _ended(job: Job, spec: bytes, nevents: int, *, stopped: bool) -> tuple[Record, list[Entry]]:
    record, now = Record(job, spec), time.time()
    cancelled = stopped and job.state in _PENDING
    exception = {
        "type": "cancel" if cancelled else "lost",
        "severity": 0,
        "note": _STOPPED if cancelled else _UNSEEN,
    }
    events = (Event(now, "exception", exception), Event(now, "clean", {}))
    entries = [entry for event in events if (entry := fold.apply(record, event))]
    record.nevents = nevents  # of the instance's own: should it be there after all, it tells the rest
    record.written = digests(searchable(job), spec)  # to write the searched text anew takes longer than a stop may
    return record, entries
