"""Queries of eventlogs, for the reading threads. They read row by row, since an eventlog may be of any length."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from sidecar.domain import fluid, untrusted
from sidecar.store.damage import Damage
from sidecar.store.rows import LARGEST_CONTEXT, LARGEST_ROW, LoggedEvents, StoredEvent, merged

_MAX_SEVERITIES = 64  # Flux has eight
_ENTRIES = "SELECT CAST(json AS BLOB) FROM events WHERE job = ?"
_EVENTS = """
SELECT position, job, count, CAST(events.json AS BLOB), coalesce(userid, -1), coalesce(username, ''),
  coalesce(submitter, ''), coalesce(queue, ''),
  coalesce(name, ''), coalesce(t_submit, 0) FROM events LEFT JOIN jobs ON jobs.id = job
"""


class Range(NamedTuple):
    """The events to read."""

    after: int
    upto: int
    limit: int
    """Maximum number of rows."""
    jobid: int | None


def events_between(db: sqlite3.Connection, damage: Damage, wanted: Range) -> list[LoggedEvents]:
    """Return events in order, up to the limit of rows, or the row that exceeds the limit of bytes."""
    after, upto, limit, jobid = wanted
    condition, values = ("AND job = ?", (jobid,)) if jobid is not None else ("", ())
    query = f"{_EVENTS} WHERE position > ? AND position <= ? {condition} ORDER BY position LIMIT ?"
    events: list[LoggedEvents] = []
    size = 0
    for row in db.execute(query, (after, upto, *values, limit)):
        for part in _parts(damage, *row):
            if part.position > after:
                events.append(part)
                size += len(part.json)
            if size > LARGEST_ROW:
                return events
    return events


def _parts(damage: Damage, position: int, jobid: int, count: int, json: bytes, *columns: Any) -> Iterator[LoggedEvents]:
    """Yield a row as it is, or in parts if an earlier version wrote it larger than rows are now."""
    checked = damage.checked_entries(json, jobid)
    if len(checked) <= 2 * LARGEST_ROW:
        yield LoggedEvents(position, jobid, count, checked, fluid.f58(jobid), *columns)
        return
    position -= count
    for number, part in merged(map(_shortened, damage.entries(json, jobid))):
        position += number
        yield LoggedEvents(position, jobid, number, part, fluid.f58(jobid), *columns)


def _shortened(entry: StoredEvent) -> bytes:
    if len(entry.context) > LARGEST_CONTEXT:
        context = untrusted.shortened(bytes(entry.context), LARGEST_CONTEXT)
        entry = msgspec.structs.replace(entry, context=msgspec.Raw(msgspec.json.encode(context)))
    return msgspec.json.encode(entry)


def ends(
    db: sqlite3.Connection, damage: Damage, jobid: int, limit: int
) -> tuple[list[StoredEvent], int, list[StoredEvent]]:
    """Return the first entries, the number of those omitted, and the last ones; see ``Store.eventlog_ends``."""
    [count] = db.execute("SELECT coalesce(sum(count), 0) FROM events WHERE job = ?", (jobid,)).fetchone()
    rows = (damage.entries(json, jobid) for (json,) in db.execute(f"{_ENTRIES} ORDER BY position", (jobid,)))
    if count <= 2 * limit:
        return list(chain.from_iterable(rows)), 0, []
    first = list(islice(chain.from_iterable(rows), limit))
    rows = (damage.entries(json, jobid)[::-1] for (json,) in db.execute(f"{_ENTRIES} ORDER BY position DESC", (jobid,)))
    last = list(islice(chain.from_iterable(rows), limit))[::-1]
    return first, count - len(first) - len(last), last


def exceptions(db: sqlite3.Connection, damage: Damage, jobid: int) -> list[StoredEvent]:
    """Return the first exception of each severity, the most severe one among them."""
    found: dict[bytes, StoredEvent] = {}
    for (cell,) in db.execute(f"{_ENTRIES} ORDER BY position", (jobid,)):
        for entry in damage.entries(cell, jobid):
            if entry.name == "exception" and len(found) < _MAX_SEVERITIES:
                found.setdefault(_severity(entry), entry)
    return list(found.values())


class _ExceptionContext(msgspec.Struct):
    severity: msgspec.Raw = msgspec.Raw(b"")


def _severity(entry: StoredEvent) -> bytes:
    """Return the encoded severity of an exception; empty if it has none."""
    try:
        return bytes(_decode(entry.context).severity)
    except (ValueError, RecursionError):
        return b""


_decode = msgspec.json.Decoder(_ExceptionContext).decode
