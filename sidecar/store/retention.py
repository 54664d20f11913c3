"""Remove the jobs that have ended first, and give their space back to the file system.

Jobs go in the order of their ends. So one time says which jobs have been removed: an instance still has them and
delivers them again in each history, where a job that ended up to this time, and is not in the store, is skipped. Their
idempotency keys stay, and so do the totals of metrics. The highest position of their events is kept too: a reader that
continues from an earlier one has missed some.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import NamedTuple

from sidecar.store.inserts import delete_jobs

SPARE = 2048
"""Free pages that stay in the file, for the next writes."""
_META = "SELECT value FROM meta WHERE key = ?"
_TIME, _POSITION = "removed_until", "removed_position"


class Gone(NamedTuple):
    """What has been removed so far."""

    until: float = 0.0
    """End of the job removed last (Unix seconds)."""
    position: int = 0
    """Highest position of a removed event."""


def load(db: sqlite3.Connection) -> Gone:
    """Return what has been removed so far."""
    until, position = (db.execute(_META, (key,)).fetchone() for key in (_TIME, _POSITION))
    try:
        return Gone(float(until[0]) if until else 0.0, int(position[0]) if position else 0)
    except ValueError:  # a damaged row
        return Gone()


def remove(
    db: sqlite3.Connection, count: int, before: float | None, announce: Callable[[Gone], None]
) -> dict[int, str]:
    """Remove the inactive jobs that have ended first, in one transaction.

    Args:
        db: the connection that writes.
        count: maximum number of jobs.
        before: only jobs that ended before this time (Unix seconds).
        announce: called with what will have been removed, before it is: a reader that finds less must know why.

    Returns:
        The removed jobs, with their queue.
    """
    condition, values = ("AND since < ?", [before]) if before is not None else ("", [])
    sql = f"SELECT id, queue, since FROM jobs INDEXED BY jobs_ended WHERE state = 'INACTIVE' {condition} ORDER BY since LIMIT ?"  # noqa: S608, E501
    rows = db.execute(sql, (*values, count)).fetchall()
    gone = load(db)
    if not rows:
        return {}
    ids = [(row[0],) for row in rows]
    until = [row[2] for row in rows if isinstance(row[2], float)]
    positions = [
        db.execute("SELECT coalesce(max(position), 0) FROM events WHERE job = ?", each).fetchone()[0] for each in ids
    ]
    then = Gone(max(gone.until, *until, 0.0), max(gone.position, *positions))
    marks = [(_TIME, repr(then.until)), (_POSITION, str(then.position))]
    try:
        with db:
            delete_jobs(db, [jobid for (jobid,) in ids])
            db.executemany("DELETE FROM events WHERE job = ?", ids)
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", marks)
            announce(then)
    except BaseException:
        announce(gone)
        raise
    return {row[0]: str(row[1]) for row in rows}


def merge_texts(db: sqlite3.Connection, pages: int, *, begin: bool) -> bool:
    """Drop the texts of removed jobs from the text index, a part at a time.

    A removal only adds a delete marker to the FTS5 index. Text and marker disappear when the segments that have them
    are merged, which by itself would happen after several times as many jobs.

    Args:
        db: the connection that writes.
        pages: approximate number of pages to write.
        begin: whether to begin a merge of all parts; otherwise it is continued.

    Returns:
        Whether something is left to do.
    """
    before = db.total_changes
    with db:
        db.execute("INSERT INTO jobs_text (jobs_text, rank) VALUES ('merge', ?)", (-pages if begin else pages,))
    return db.total_changes - before >= 2  # fewer: nothing was merged, as SQLite's documentation says


def checkpoint(db: sqlite3.Connection) -> bool:
    """Copy the write-ahead log into the file, as far as possible.

    Returns:
        Whether all of it was copied. If not, something reads an earlier state; until it ends, the file keeps its size.
    """
    _, pages, copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return bool(pages == copied)


def shrink(db: sqlite3.Connection, pages: int, spare: int) -> bool:
    """Cut free pages off the file.

    Args:
        db: the connection that writes.
        pages: maximum number of pages to free in this step.
        spare: free pages that stay.

    Returns:
        Whether more free pages than the spare ones are left.
    """
    [free] = db.execute("PRAGMA freelist_count").fetchone()
    if free > spare:
        # Not execute(): it takes one step of a statement without columns, and each step frees one page.
        db.executescript(f"PRAGMA incremental_vacuum({min(pages, free - spare)})")
        checkpoint(db)  # only then does the file become shorter
    return bool(free > spare + pages)
