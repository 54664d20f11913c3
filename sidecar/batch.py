"""From folded jobs to what the store writes in one transaction."""

from __future__ import annotations

import time
from collections.abc import Sequence

import msgspec

from sidecar import fold, jobspec
from sidecar.fold import Record
from sidecar.model import Brief, Entry, Event, Job
from sidecar.store import Row, Told
from sidecar.tally import Happened

_encode = msgspec.json.Encoder().encode


class Batch:
    """What is written in one transaction."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.taken = 0
        self.touched: dict[int, Record] = {}
        self.dropped: dict[int, Record] = {}
        self.happened = Happened()
        self.told: list[Told] = []

    def tell(self, job: Job, entries: Sequence[Entry]) -> None:
        """Add entries of a job's eventlog, under the next positions."""
        if entries:
            self.happened.add(job, entries)
            self.position += len(entries)
            self.told.append(
                Told(
                    self.position,
                    job.id,
                    len(entries),
                    _encode(entries),
                    job.f58id,
                    job.userid,
                    job.username,
                    job.submitter,
                    job.queue,
                    job.name,
                    job.t_submit,
                )
            )


def row(record: Record) -> Row:
    """Return a job as it is written; what seldom changes only where it has."""
    job = record.job
    text, spec = searchable(job), _encode(record.jobspec)
    found = Row(
        id=job.id,
        t_submit=job.t_submit,
        t_run=job.t_run or None,
        state=job.state,
        result=job.result,
        userid=job.userid,
        username=job.username,
        submitter=job.submitter,
        queue=job.queue,
        name=job.name,
        nnodes=job.nnodes or None,
        ntasks=job.ntasks or None,
        runtime=job.runtime or None,
        nevents=record.nevents,
        brief=_encode(Brief(job.id, job.f58id, job.state, job.result, job.name)).decode(),
        json=_encode(job).decode(),
        text=text if text != record.written[0] else None,
        jobspec=spec if spec != record.written[1] else None,
        key=None if record.written[1] else jobspec.key(record.jobspec),
    )
    record.written = (text, spec)
    return found


def searchable(job: Job) -> str:
    """What a search looks through; state and result are columns of their own."""
    parts = [
        job.f58id,
        str(job.id),
        job.name,
        " ".join(job.command),
        job.cwd,
        job.queue,
        job.username,
        job.submitter,
        job.nodelist,
    ]
    return "\n".join([*parts, job.exception.type, job.exception.note])


def ended_unseen(job: Job, nevents: int) -> tuple[Record, list[Entry]]:
    """End a job that its instance has forgotten: it finished and was purged, or its engine died with it."""
    record = Record(job, {}, written=("", b"{}"))
    note = "the instance no longer knows this job: how it ended was not seen"
    now = time.time()
    events = [
        Event(now, "exception", {"type": "lost", "severity": 0, "note": note}),
        Event(now, "clean", {}),
    ]
    entries = [entry for event in events if (entry := fold.apply(record, event))]
    record.nevents = nevents
    return record, entries
