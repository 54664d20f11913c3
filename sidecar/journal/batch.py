"""From folded jobs to what the store writes in one transaction."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET

from sidecar.domain import untrusted
from sidecar.domain.model import Brief, Entry, Event, Job
from sidecar.journal import fold
from sidecar.journal.counts import CountDeltas
from sidecar.journal.record import Record
from sidecar.store import LARGEST_CONTEXT, LoggedEvents, Row, merged, plain

_FEW = 64  # entries that are written as JSON at once
_SEARCHED = 1024  # bytes of each text that is searched: an index over all of them is a hundred times slower to write
_SEARCHED_LIST = 2048
_encode = msgspec.json.Encoder().encode


class Batch:
    """What is written in one transaction."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.taken = 0
        self.size = 0
        """How many bytes the journal's responses have that were taken."""
        self.touched: dict[int, Record] = {}
        self.dropped: dict[int, Record] = {}
        self.happened = CountDeltas()
        self.told: list[LoggedEvents] = []

    def tell(self, job: Job, entries: Sequence[Entry]) -> None:
        """Add entries of a job's eventlog, under the next positions."""
        if not entries:
            return
        self.happened.add(job, entries)
        for count, json in _rows(entries):
            self.position += count
            self.told.append(
                LoggedEvents(
                    self.position,
                    job.id,
                    count,
                    json,
                    job.f58id,
                    job.userid,
                    job.username,
                    job.submitter,
                    job.queue,
                    job.name,
                    job.t_submit,
                )
            )


def _rows(entries: Sequence[Entry]) -> Iterable[tuple[int, bytes]]:
    """Return entries as the rows that are written: how many there are in each, and their JSON."""
    if len(entries) <= _FEW:
        with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
            if len(json := _encode(entries)) <= LARGEST_CONTEXT:
                return [(len(entries), json)]
    return merged(map(_entry, entries))


def _entry(entry: Entry) -> bytes:
    """Return an entry as JSON, in so many bytes and such values as can be stored and sent to anything."""
    try:
        json = _encode(entry)
    except (ValueError, TypeError, OverflowError, RecursionError):
        entry = msgspec.structs.replace(entry, context=untrusted.plain(entry.context))
        json = _encode(entry)
    if len(json) <= LARGEST_CONTEXT:
        return json
    return _encode(msgspec.structs.replace(entry, context=untrusted.shortened(_encode(entry.context), LARGEST_CONTEXT)))


def row(record: Record) -> Row:
    """Return a job as it is written; what seldom changes only where it has."""
    job = record.job
    text = searchable(job)
    # A job that runs is stored without its runtime so far, which is added where it is read.
    json = _encode(msgspec.structs.replace(job, runtime=UNSET) if job.state == "RUN" else job)
    written = digests(text, record.jobspec)
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
        json=json.decode(),
        text=text if written[0] != record.written[0] else None,
        jobspec=record.jobspec if written[1] != record.written[1] else None,
        key=None if record.written[1] else record.key,
    )
    record.written = written
    record.size = len(json) + len(record.jobspec)
    return found


def digests(text: str, spec: bytes) -> tuple[bytes, bytes]:
    """Return what tells a searched text and a jobspec from others; to keep them both would double what a job takes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest(), hashlib.blake2b(spec, digest_size=16).digest()


def searchable(job: Job) -> str:
    """What a search looks through: the beginnings of texts that are long. State and result are columns of their own."""
    parts = [job.name, job.cwd, job.queue, job.username, job.submitter, job.exception.type, job.exception.note]
    lists = [" ".join(job.command), job.nodelist]
    texts = [untrusted.text(part, _SEARCHED) for part in parts]
    texts += [untrusted.text(part, _SEARCHED_LIST) for part in lists]
    return plain("\n".join([job.f58id, str(job.id), *texts]))


def ended_unseen(job: Job, nevents: int) -> tuple[Record, list[Entry]]:
    """End a job that its instance has forgotten: it finished and was purged, or its engine died with it."""
    record = Record(job, b"{}", written=digests("", b"{}"))
    note = "the instance no longer knows this job: how it ended was not seen"
    now = time.time()
    events = [
        Event(now, "exception", {"type": "lost", "severity": 0, "note": note}),
        Event(now, "clean", {}),
    ]
    entries = [entry for event in events if (entry := fold.apply(record, event))]
    record.nevents = nevents
    return record, entries
