"""Encode folded jobs and their events as the rows of one store transaction."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence

import msgspec
from msgspec import UNSET

from sidecar.domain import untrusted
from sidecar.domain.model import Entry, Job
from sidecar.journal.counts import CountDeltas
from sidecar.journal.record import Record
from sidecar.store import LARGEST_CONTEXT, LoggedEvents, Row, merged, plain

_SMALL = 64  # entries that are encoded in one call
_SEARCHED = 1024  # bytes of each searchable text: to index complete texts makes writes a hundred times slower
_SEARCHED_LIST = 2048
_encode = msgspec.json.Encoder().encode


class Batch:
    """The content of one transaction.

    Args:
        position: position of the last event in the store.
    """

    def __init__(self, position: int) -> None:
        self.position = position
        """Position of the last event, this batch included."""
        self.responses = 0
        """Number of journal responses in the batch."""
        self.size = 0
        """Bytes of these responses."""
        self.records: dict[int, Record] = {}
        """Jobs to insert or update."""
        self.deleted: dict[int, Record] = {}
        """Jobs to delete, because they are invalid."""
        self.deltas = CountDeltas()
        self.logged: list[LoggedEvents] = []

    def append(self, job: Job, entries: Sequence[Entry]) -> None:
        """Append entries of a job's eventlog, at the next positions."""
        if not entries:
            return
        self.deltas.add(job, entries)
        for count, json in event_rows(entries):
            self.position += count
            self.logged.append(
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


def event_rows(entries: Sequence[Entry]) -> Iterable[tuple[int, bytes]]:
    """Encode entries as rows: the number of entries of each row, and their JSON array."""
    if len(entries) <= _SMALL:
        with contextlib.suppress(ValueError, TypeError, OverflowError, RecursionError):
            if len(json := _encode(entries)) <= LARGEST_CONTEXT:
                return [(len(entries), json)]
    return merged(map(_entry, entries))


def _entry(entry: Entry) -> bytes:
    """Encode an entry as JSON that can be stored and sent: oversized and unencodable values are replaced."""
    try:
        json = _encode(entry)
    except (ValueError, TypeError, OverflowError, RecursionError):
        entry = msgspec.structs.replace(entry, context=untrusted.plain(entry.context))
        json = _encode(entry)
    if len(json) <= LARGEST_CONTEXT:
        return json
    return _encode(msgspec.structs.replace(entry, context=untrusted.shortened(_encode(entry.context), LARGEST_CONTEXT)))


def job_row(record: Record) -> Row:
    """Encode a job as a row; search text and jobspec are None if the store has them already.

    The record then counts as stored: ``stored_digests`` and ``stored_size`` are updated.
    """
    job = record.job
    text = search_text(job)
    # A running job is stored without its runtime so far; reads add it.
    json = _encode(msgspec.structs.replace(job, runtime=UNSET) if job.state == "RUN" else job)
    stored = digests(text, record.jobspec)
    row = Row(
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
        json=json.decode(),
        text=text if stored[0] != record.stored_digests[0] else None,
        jobspec=record.jobspec if stored[1] != record.stored_digests[1] else None,
        key=None if record.stored_digests[1] else record.idempotency_key,
    )
    record.stored_digests = stored
    record.stored_size = len(json) + len(record.jobspec)
    return row


def digests(text: str, spec: bytes) -> tuple[bytes, bytes]:
    """Return digests of a search text and a jobspec; to keep both in memory would double the size of a record."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest(), hashlib.blake2b(spec, digest_size=16).digest()


def search_text(job: Job) -> str:
    """Return the text that searches cover: the beginnings of long texts. State and result are columns of their own."""
    parts = [job.name, job.cwd, job.queue, job.username, job.submitter, job.exception.type, job.exception.note]
    lists = [" ".join(job.command), job.nodelist]
    texts = [untrusted.text(part, _SEARCHED) for part in parts]
    texts += [untrusted.text(part, _SEARCHED_LIST) for part in lists]
    return plain("\n".join([job.f58id, str(job.id), *texts]))
