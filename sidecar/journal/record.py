"""A job as it is kept in memory while its events come."""

from __future__ import annotations

from typing import Any

import msgspec

from sidecar.domain.model import ExceptionInfo, Job
from sidecar.domain.untrusted import Faults
from sidecar.journal.counts import JobGroup


class Record(msgspec.Struct):
    """A job, and what is needed to fold its next event."""

    job: Job
    jobspec: bytes
    """As JSON, and as it was submitted: nothing of it is cut."""
    nevents: int = 0
    R: dict[str, Any] | None = None
    fatal: bool = False
    worst: ExceptionInfo | None = None
    invalid: bool = False
    key: tuple[str, str] | None = None
    """Idempotency key of its submit, and the digest of its request."""
    counted: JobGroup | None = None
    """What it was counted as last; None while it was not."""
    written: tuple[bytes, bytes] = (b"", b"")
    """Digests of what the store holds of it that seldom changes: the text that is searched, and the jobspec."""
    size: int = 0
    """Bytes of what the store holds of it, which are about those that it takes in memory."""
    faults: Faults = msgspec.field(default_factory=Faults)
    """What could not be read of what is told of it."""

    @property
    def active(self) -> bool:
        """Whether the job may still change."""
        return self.job.state != "INACTIVE"


class Records:
    """The records that are kept in memory, in the order in which they were touched last.

    Args:
        most: how many at most.
        size: of how many bytes in all, about.
    """

    def __init__(self, most: int, size: int) -> None:
        self._most = most
        self._size = size
        self._records: dict[int, tuple[Record, int]] = {}
        self._sum = 0

    def __contains__(self, fluid: int) -> bool:
        return fluid in self._records

    def get(self, fluid: int) -> Record | None:
        """Return the record of a job, None when it is not kept."""
        found = self._records.get(fluid)
        return found[0] if found else None

    def put(self, record: Record) -> None:
        """Keep a record, as the one that was touched last."""
        self.drop(record.job.id)
        size = max(record.size, len(record.jobspec))
        self._records[record.job.id] = record, size
        self._sum += size

    def drop(self, fluid: int) -> None:
        """Keep the record of a job no longer."""
        if found := self._records.pop(fluid, None):
            self._sum -= found[1]

    def shrink(self) -> None:
        """Drop those that were not touched for longest, until there are no more than wanted; all are in the store."""
        while len(self._records) > 1 and (len(self._records) > self._most or self._sum > self._size):
            self.drop(next(iter(self._records)))

    def clear(self) -> None:
        """Keep none."""
        self._records.clear()
        self._sum = 0
