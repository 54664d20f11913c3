"""Cache of the job documents read last, so that repeated reads of a job cost no query."""

from __future__ import annotations

from typing import NamedTuple

_MAX_COUNT, _MAX_BYTES = 1024, 8 * 1024 * 1024


def running_job(json: bytes, running: object, now: float) -> bytes:
    """Return the JSON of a job; in RUN with its runtime so far, which is not stored.

    Args:
        json: as stored.
        running: time when the job started (Unix seconds) if it is in RUN.
        now: current time.
    """
    if not isinstance(running, float):
        return json
    return json[:-1] + b',"runtime":%.6f}' % max(0.0, now - running)


class Document(NamedTuple):
    """A job as the store has it."""

    running: float | None
    """Time when the job started (Unix seconds) if it is in RUN: then ``json`` lacks its runtime."""
    json: bytes


class DocumentCache:
    """Documents by job; cleared when it is full."""

    def __init__(self) -> None:
        self._documents: dict[int, Document] = {}
        self._bytes = 0

    def get(self, jobid: int) -> Document | None:
        """Return the document of a job; None if it is not cached."""
        return self._documents.get(jobid)

    def put(self, jobid: int, document: Document) -> None:
        """Add a document."""
        self.discard(jobid)
        size = len(document.json)
        if len(self._documents) >= _MAX_COUNT or self._bytes + size > _MAX_BYTES:
            self.clear()
        if size <= _MAX_BYTES:
            self._documents[jobid] = document
            self._bytes += size

    def discard(self, jobid: int) -> None:
        """Remove the document of a job that has changed."""
        if document := self._documents.pop(jobid, None):
            self._bytes -= len(document.json)

    def clear(self) -> None:
        """Remove all documents."""
        self._documents.clear()
        self._bytes = 0
