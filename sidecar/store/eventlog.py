"""What the store reads of eventlogs, in its threads: part by part, since one job's may be of any length."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from sidecar.domain import fluid, untrusted
from sidecar.store.damage import Damage
from sidecar.store.rows import LARGEST_CONTEXT, LARGEST_ROW, LoggedEvents, StoredEvent, merged

_SEVERITIES = 64  # of exceptions; Flux has eight
_ENTRIES = "SELECT CAST(json AS BLOB) FROM events WHERE job = ?"
_TOLD = """
SELECT position, job, count, CAST(events.json AS BLOB), coalesce(userid, -1), coalesce(username, ''),
  coalesce(submitter, ''), coalesce(queue, ''),
  coalesce(name, ''), coalesce(t_submit, 0) FROM events LEFT JOIN jobs ON jobs.id = job
"""


class Wanted(NamedTuple):
    """Which rows to read."""

    after: int
    upto: int
    limit: int
    job: int | None


def told(db: sqlite3.Connection, damage: Damage, wanted: Wanted) -> list[LoggedEvents]:
    """Return rows in their order: up to the limit, or to the one that passes the bound of bytes."""
    after, upto, limit, job = wanted
    only, values = ("AND job = ?", (job,)) if job is not None else ("", ())
    query = f"{_TOLD} WHERE position > ? AND position <= ? {only} ORDER BY position LIMIT ?"
    found: list[LoggedEvents] = []
    size = 0
    for row in db.execute(query, (after, upto, *values, limit)):
        for part in _parts(damage, *row):
            if part.position > after:
                found.append(part)
                size += len(part.json)
            if size > LARGEST_ROW:
                return found
    return found


def _parts(damage: Damage, position: int, job: int, count: int, json: bytes, *which: Any) -> Iterator[LoggedEvents]:
    """Yield a row as it was written, or in parts where an earlier version has written a larger one."""
    sound = damage.told(json, job)
    if len(sound) <= 2 * LARGEST_ROW:
        yield LoggedEvents(position, job, count, sound, fluid.f58(job), *which)
        return
    position -= count
    for number, part in merged(map(_shortened, damage.entries(json, job))):
        position += number
        yield LoggedEvents(position, job, number, part, fluid.f58(job), *which)


def _shortened(entry: StoredEvent) -> bytes:
    if len(entry.context) > LARGEST_CONTEXT:
        context = untrusted.shortened(bytes(entry.context), LARGEST_CONTEXT)
        entry = msgspec.structs.replace(entry, context=msgspec.Raw(msgspec.json.encode(context)))
    return msgspec.json.encode(entry)


def ends(
    db: sqlite3.Connection, damage: Damage, job: int, most: int
) -> tuple[list[StoredEvent], int, list[StoredEvent]]:
    """Return the first entries, the number of those between, and the last; see ``Store.ends``."""
    [number] = db.execute("SELECT coalesce(sum(count), 0) FROM events WHERE job = ?", (job,)).fetchone()
    rows = (damage.entries(json, job) for (json,) in db.execute(f"{_ENTRIES} ORDER BY position", (job,)))
    if number <= 2 * most:
        return list(chain.from_iterable(rows)), 0, []
    first = list(islice(chain.from_iterable(rows), most))
    rows = (damage.entries(json, job)[::-1] for (json,) in db.execute(f"{_ENTRIES} ORDER BY position DESC", (job,)))
    last = list(islice(chain.from_iterable(rows), most))[::-1]
    return first, number - len(first) - len(last), last


def exceptions(db: sqlite3.Connection, damage: Damage, job: int) -> list[StoredEvent]:
    """Return the first exception of each severity: the worst of all is among them."""
    found: dict[bytes, StoredEvent] = {}
    for (json,) in db.execute(f"{_ENTRIES} AND instr(json, ?) ORDER BY position", (job, b'"exception"')):
        for entry in damage.entries(json, job):
            if entry.name == "exception" and len(found) < _SEVERITIES:
                found.setdefault(_severity(entry), entry)
    return list(found.values())


class _Raised(msgspec.Struct):
    severity: msgspec.Raw = msgspec.Raw(b"")


def _severity(entry: StoredEvent) -> bytes:
    """Return the severity of an exception, as it is written; empty where it has none."""
    try:
        return bytes(_raised(entry.context).severity)
    except (ValueError, RecursionError):
        return b""


_raised = msgspec.json.Decoder(_Raised).decode
