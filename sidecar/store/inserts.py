"""The statements that write jobs and events, and the encoding of their rows."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from sidecar.domain import fluid
from sidecar.store.numbers import numbers
from sidecar.store.packing import packed, packed_entries
from sidecar.store.rows import LARGEST_ROW, LoggedEvents, Row

# Only columns that can change are updated, so that the indexes over the others are left alone.
_UPDATE = """ON CONFLICT (id) DO UPDATE SET
  since = excluded.since, state = excluded.state, result = excluded.result, queue = excluded.queue,
  nnodes = excluded.nnodes, ntasks = excluded.ntasks, runtime = excluded.runtime, nevents = excluded.nevents,
  held = excluded.held, ncores = excluded.ncores
"""
_BLANK = re.compile("\n+")  # between the parts of a search text, some of which are empty
_ROWS = 64  # rows of one statement


def write_batch(
    db: sqlite3.Connection,
    rows: Sequence[Row],
    logged: Sequence[LoggedEvents],
    deleted: Sequence[int],
    totals: Sequence[tuple[str, str, str]],
) -> None:
    """Write one transaction; see :meth:`Writer.write`."""
    keys = [(row.key[0], row.id, row.key[1]) for row in rows if row.key]
    cells = [
        Cells(row, packed(row.json.encode()), None if row.jobspec is None else packed(row.jobspec)) for row in rows
    ]
    with db:
        insert_jobs(db, cells)
        # The first job of a key counts; a second one can only have been submitted by something else than this server.
        _insert(db, "INSERT OR IGNORE INTO keys", keys)
        # A commit that failed may have been carried out: its repetition must not fail on existing rows.
        _insert(db, "INSERT OR REPLACE INTO events", list(joined(logged)))
        _insert(db, "INSERT OR REPLACE INTO totals", totals)
        delete_jobs(db, deleted)
        db.executemany("DELETE FROM keys WHERE job = ?", [(jobid,) for jobid in deleted])


class Cells(NamedTuple):
    """A job to write, and what is compressed of it."""

    row: Row
    document: bytes
    jobspec: bytes | None


def insert_jobs(db: sqlite3.Connection, cells: Sequence[Cells]) -> None:
    """Insert or update jobs, within a transaction."""
    nums = numbers(db, [row.id for row, _, _ in cells])
    jobs = [_job(row, nums[row.id]) for row, _, _ in cells]
    documents = [(nums[row.id], row.id, row.t_run if row.state == "RUN" else None, json) for row, json, _ in cells]
    texts = [(nums[row.id], _BLANK.sub("\n", row.text)) for row, _, _ in cells if row.text is not None]
    _insert(db, "INSERT INTO jobs", jobs, _UPDATE)
    _insert(db, "INSERT OR REPLACE INTO documents", documents)
    _insert(db, "INSERT OR REPLACE INTO jobs_text (rowid, text)", texts)
    _insert(db, "INSERT OR REPLACE INTO jobspecs", [(row.id, spec) for row, _, spec in cells if spec is not None])


def _job(row: Row, num: int) -> tuple[Any, ...]:
    since, held, ncores = row.t_run if row.state == "RUN" else None, None, None
    if row.state in ("SCHED", "INACTIVE"):
        details = _details(row.json)
        if row.state == "INACTIVE":
            since = details.t_inactive if isinstance(details.t_inactive, float) else row.t_submit
        else:
            held, ncores = details.urgency == 0, details.ncores if isinstance(details.ncores, int) else None
    return (
        row.id, num, fluid.f58(row.id), row.t_submit, since, row.state, row.result, row.userid, row.username,
        row.submitter, row.queue, row.name, row.nnodes, row.ntasks, row.runtime, row.nevents, held, ncores,
    )  # fmt: skip


class _Details(msgspec.Struct):
    """Members of a job that are columns in some states."""

    urgency: Any = None
    ncores: Any = None
    t_inactive: Any = None


_decode_details = msgspec.json.Decoder(_Details).decode


def _details(json: str) -> _Details:
    try:
        return _decode_details(json)
    except (ValueError, RecursionError):
        return _Details()


def joined(logged: Iterable[LoggedEvents]) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the rows of events: entries of one job that follow each other are one row, within its limit."""
    jobid, position, count, size, parts = -1, 0, 0, 0, list[bytes]()
    for each in logged:
        follows = each.jobid == jobid and each.position - each.count == position
        if parts and not (follows and size + len(each.json) <= LARGEST_ROW):
            yield position, jobid, count, packed_entries(parts)
            count, size, parts = 0, 0, []
        jobid, position, count, size = each.jobid, each.position, count + each.count, size + len(each.json)
        parts.append(each.json)
    if parts:
        yield position, jobid, count, packed_entries(parts)


def delete_jobs(db: sqlite3.Connection, jobids: Sequence[int]) -> None:
    """Delete jobs with all that belongs to them, except for their events and idempotency keys."""
    for jobid in jobids:
        values = (jobid,)
        db.execute("DELETE FROM jobs_text WHERE rowid = (SELECT num FROM jobs WHERE id = ?)", values)
        db.execute("DELETE FROM documents WHERE num = (SELECT num FROM jobs WHERE id = ?)", values)
        db.execute("DELETE FROM jobspecs WHERE job = ?", values)
        db.execute("DELETE FROM jobs WHERE id = ?", values)


def _insert(db: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]], suffix: str = "") -> None:
    """Insert rows, many in each statement.

    The GIL is released and acquired around every statement. Beside threads that compute, each time costs
    milliseconds: one statement per row made writing four times as slow as everything else together.
    """
    start, count = 0, _ROWS
    while start < len(rows):
        while count > len(rows) - start:
            count //= 2  # few distinct lengths, so that each statement is prepared once
        values = ", ".join([f"({', '.join('?' * len(rows[0]))})"] * count)
        flat = [value for row in rows[start : start + count] for value in row]
        db.execute(f"{into} VALUES {values} {suffix}", flat)
        start += count
