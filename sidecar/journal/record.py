"""The in-memory state of a job while its events are folded."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.domain.members import Faults
from sidecar.domain.model import ExceptionInfo, Job
from sidecar.journal.counts import JobGroup


class Record(msgspec.Struct):
    """A job, and the state needed to fold its next event."""

    job: Job
    jobspec: bytes
    """JSON of the complete jobspec, with all updates so far."""
    nevents: int = 0
    R: dict[str, Any] | None = None
    fatal: bool = False
    worst: ExceptionInfo | None = None
    """Most severe exception so far."""
    invalid: bool = False
    idempotency_key: tuple[str, str] | None = None
    """Idempotency key of the submit, and the digest of its request."""
    group: JobGroup | None = None
    """Group in which the job is counted; None while it is not counted."""
    stored_digests: tuple[bytes, bytes] = (b"", b"")
    """Digests of the search text and the jobspec in the store, which seldom change."""
    stored_size: int = 0
    """Bytes of the job in the store, about what the record takes in memory."""
    faults: Faults = msgspec.field(default_factory=Faults)
    """Values in the journal that could not be read."""

    @property
    def active(self) -> bool:
        """Whether the job may still change."""
        return self.job.state != "INACTIVE"


class RecordCache:
    """The most recently used records.

    Args:
        max_count: maximum number of records.
        max_bytes: maximum size of all of them (approximate).
    """

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._records: dict[int, tuple[Record, int]] = {}
        self._bytes = 0

    def __contains__(self, jobid: int) -> bool:
        return jobid in self._records

    def get(self, jobid: int) -> Record | None:
        """Return the record of a job; None if it is not cached."""
        cached = self._records.get(jobid)
        return cached[0] if cached else None

    def put(self, record: Record) -> None:
        """Add a record as the most recently used one."""
        self.discard(record.job.id)
        size = max(record.stored_size, len(record.jobspec))
        self._records[record.job.id] = record, size
        self._bytes += size

    def discard(self, jobid: int) -> None:
        """Remove the record of a job, if it is cached."""
        if cached := self._records.pop(jobid, None):
            self._bytes -= cached[1]

    def evict(self) -> None:
        """Remove the least recently used records until the rest is within the limits; the store has all of them."""
        while len(self._records) > 1 and (len(self._records) > self._max_count or self._bytes > self._max_bytes):
            self.discard(next(iter(self._records)))

    def clear(self) -> None:
        """Remove all records."""
        self._records.clear()
        self._bytes = 0
