"""What is written to the store, and what comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from sidecar.domain.model import Result, State, Unset

LARGEST_CONTEXT = 16 * 1024
"""Bytes of one entry's context as JSON, at most."""
LARGEST_ROW = 64 * 1024
"""Bytes of the entries that are written as one row, about: a reader holds some rows, and takes them one by one."""


class Row(NamedTuple):
    """A job as it is written. What is None has not changed since the job was written last."""

    id: int
    t_submit: float
    t_run: float | None
    state: str
    result: str
    userid: int
    username: str
    submitter: str
    queue: str
    name: str
    nnodes: int | None
    ntasks: int | None
    runtime: float | None
    nevents: int
    brief: str
    json: str
    text: str | None
    jobspec: bytes | None
    key: tuple[str, str] | None
    """Idempotency key of the submit, and the digest of its request."""


class StoredEvent(msgspec.Struct):
    """An entry of a job's eventlog as the store keeps it; the context is passed on as it is."""

    timestamp: float
    name: str
    context: msgspec.Raw = msgspec.Raw(b"{}")
    state: State | Unset = ""
    result: Result | Unset = ""
    returncode: int | Unset = ""


class LoggedEvents(msgspec.Struct):
    """What one answer of the journal told of one job, or a part of it where that is large.

    ``position`` is that of its last entry, ``count`` the number of entries, ``json`` a JSON array of them. The rest
    is what a filter looks at.
    """

    position: int
    job: int
    count: int
    json: bytes
    f58id: str
    userid: int
    username: str
    submitter: str
    queue: str
    name: str
    t_submit: float
    rendered: list[tuple[int, str, str, bytes]] | None = None
    """Position, state, result and event as it is sent, of each entry: made once for all who follow."""

    def entries(self, after: int) -> Iterator[tuple[int, StoredEvent]]:
        """Return positions and entries behind a position."""
        first = self.position - self.count + 1
        for position, entry in enumerate(_decode(self.json), first):
            if position > after:
                yield position, entry


class Page(NamedTuple):
    """A part of a list."""

    json: bytes
    """The jobs, separated by commas."""
    last: int | None
    """The last job's id, when there are more behind it."""
    position: int
    """Position of the last event that the list knows of, or an earlier one."""
    number: int
    """How many jobs there are in ``json``."""


_decode = msgspec.json.Decoder(list[StoredEvent]).decode


def merged(entries: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Put entries together to rows: yield the number of entries of each, and their JSON array."""
    found: list[bytes] = []
    size = 0
    for entry in entries:
        found.append(entry)
        size += len(entry)
        if size > LARGEST_ROW:
            yield len(found), b"[%b]" % b",".join(found)
            found, size = [], 0
    if found:
        yield len(found), b"[%b]" % b",".join(found)
