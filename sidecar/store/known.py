"""Look up how many events of some jobs are stored; also from another process than that which writes the store."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_LOOKUP = 256  # jobs of one statement
_BUSY_TIMEOUT = 5.0  # seconds


def stored_events(db: sqlite3.Connection, jobids: Sequence[int]) -> dict[int, int]:
    """Return the number of stored events of each job that the store has; 0 if its row is damaged.

    Args:
        db: a connection to the store.
        jobids: the jobs.
    """
    found: dict[int, int] = {}
    for first in range(0, len(jobids), _LOOKUP):
        some = jobids[first : first + _LOOKUP]
        marks = ", ".join("?" * len(some))
        rows = db.execute(f"SELECT id, nevents FROM jobs WHERE id IN ({marks})", some)  # noqa: S608 - values are bound
        found.update((jobid, count if isinstance(count, int) else 0) for jobid, count in rows)
    return found


@contextmanager
def read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """Open the store that another process writes; it is closed at the end.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT)
    try:
        yield db
    finally:
        db.close()
