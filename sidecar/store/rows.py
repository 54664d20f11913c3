"""The rows that are written to the store, and the results of reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from sidecar.domain.model import Result, State, Unset

LARGEST_CONTEXT = 16 * 1024
"""Maximum bytes of the JSON of one entry's context."""
LARGEST_ROW = 64 * 1024
"""Approximate bytes of the entries in one row: readers have a few rows in memory and process them one by one."""


class Row(NamedTuple):
    """A job to write. None in the last three fields: unchanged since the last write."""

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
    json: str
    text: str | None
    jobspec: bytes | None
    key: tuple[str, str] | None
    """Idempotency key of the submit, and the digest of its request."""


class StoredEvent(msgspec.Struct):
    """An entry of a job's eventlog; the context stays encoded."""

    timestamp: float
    name: str
    context: msgspec.Raw = msgspec.Raw(b"{}")
    state: State | Unset = ""
    result: Result | Unset = ""
    returncode: int | Unset = ""


class LoggedEvents(msgspec.Struct):
    """Consecutive eventlog entries of one job, of one journal response or several.

    ``position`` is that of the last entry, ``count`` the number of entries, ``json`` a JSON array of them. The other
    fields are for filters.
    """

    position: int
    jobid: int
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
    """Position, state, result and encoded SSE event of each entry: rendered once for all subscribers."""

    def entries(self, after: int) -> Iterator[tuple[int, StoredEvent]]:
        """Yield the positions and entries after a position."""
        first = self.position - self.count + 1
        for position, entry in enumerate(_decode(self.json), first):
            if position > after:
                yield position, entry


class Page(NamedTuple):
    """A part of a list."""

    json: bytes
    """The jobs, with a separator in between."""
    last: int | None
    """ID of the last job, if there are more."""
    position: int
    """Position of an event such that the list reflects it and all before."""
    length: int
    """Number of jobs in ``json``."""


_decode = msgspec.json.Decoder(list[StoredEvent]).decode


def merged(entries: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Combine encoded entries into rows: yield the number of entries of each, and their JSON array."""
    row: list[bytes] = []
    size = 0
    for entry in entries:
        row.append(entry)
        size += len(entry)
        if size > LARGEST_ROW:
            yield len(row), b"[%b]" % b",".join(row)
            row, size = [], 0
    if row:
        yield len(row), b"[%b]" % b",".join(row)
