"""Fold the history into frames, in the process that reads it: no I/O but the look-up of what the store has.

Only jobs that have ended are in the result: the server itself follows the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from sidecar.domain import untrusted
from sidecar.domain.model import JobEvents
from sidecar.journal import fold
from sidecar.journal.batch import event_rows, job_row
from sidecar.journal.counts import CountDeltas
from sidecar.journal.history_frame import Frame, StoredJob, encode_job

_RESPONSES = 512  # of one frame
_BYTES = 2 * 1024 * 1024  # of one frame, without the response that exceeds them
_END_NAME = b'"clean"'  # in the response of every job that has ended: the names in eventlogs are not escaped

Decode = Callable[[bytes], JobEvents]
LookUp = Callable[[Sequence[int]], dict[int, int]]


def has_end(response: bytes) -> bool:
    """Return whether a response may be that of a job that has ended, which is cheaper than to decode it."""
    return _END_NAME in response


def frames(
    responses: Iterable[bytes], decode: Decode, stored_events: LookUp, removed_until: float = 0.0
) -> Iterator[Frame]:
    """Yield the history in frames, the last of which is complete.

    Args:
        responses: of the journal; those of jobs that have not ended change nothing.
        decode: decodes a response; ValueError: it cannot be read.
        stored_events: returns the number of stored events of jobs.
        removed_until: end of the job that was removed last from the store (Unix seconds).
    """
    part = _Part(0, removed_until)
    for response in responses:
        part.add(response, decode)
        if part.full:
            yield part.frame(stored_events)
            part = _Part(part.read, removed_until)
    frame = part.frame(stored_events)
    frame.complete = True
    yield frame


class _Part:
    """The responses of one frame.

    Args:
        read: number of jobs in the frames before.
        removed_until: see :func:`frames`.
    """

    def __init__(self, read: int, removed_until: float) -> None:
        self.read = read
        self._removed_until = removed_until
        self._responses = self._bytes = 0
        self._items: list[JobEvents] = []
        self._faults: list[tuple[int, str, str]] = []
        self._deltas = CountDeltas()

    @property
    def full(self) -> bool:
        return self._responses >= _RESPONSES or self._bytes >= _BYTES

    def add(self, response: bytes, decode: Decode) -> None:
        """Decode a response."""
        self._responses += 1
        self._bytes += len(response)
        try:
            item = decode(response)
        except Exception as exc:  # one malformed response must not end the history of all jobs
            self._faults.append((-1, "response", _text(exc)))
            return
        if any(event.name == "clean" for event in item.events):
            self.read += 1
            self._items.append(item)

    def frame(self, stored_events: LookUp) -> Frame:
        """Fold the jobs that the store lacks, whole or in part.

        They are sorted by ID: writes to the indexes of the store, above all to the text index, are faster then.
        """
        self._items.sort(key=lambda item: item.id)
        known = stored_events([item.id for item in self._items]) if self._items else {}
        jobs = []
        for item in self._items:
            stored = known.get(item.id, 0)
            if len(item.events) > stored and (stored or not fold.ended_until(item, self._removed_until)):
                try:
                    if job := self._fold(item, stored):
                        jobs.append(job)
                except Exception as exc:  # a bug triggered by an unforeseen value must not affect other jobs
                    self._faults.append((item.id, "response", f"cannot be folded: {_text(exc)}"))
        totals = [(name, labels, values) for (name, labels), values in self._deltas.cells.items()]
        return Frame(self.read, jobs, totals, self._faults)

    def _fold(self, item: JobEvents, known: int) -> msgspec.Raw | None:
        """Return a job, encoded; None if its eventlog does not begin at its submit, or does not end."""
        record = fold.new_record(item)
        if record is None:
            return None
        entries = fold.extend(record, item)[known:]
        self._faults += [(item.id, kind, detail) for kind, detail in record.faults.take().items()]
        if record.active or record.invalid:
            return None
        job = StoredJob(job_row(record), known, record.job.f58id, list(event_rows(entries)))
        encoded = encode_job(job)
        self._deltas.add(record.job, entries)
        return encoded


def _text(exc: Exception) -> str:
    return f"{type(exc).__name__}: {untrusted.text(str(exc), 200)}"
