"""The numbers of jobs in the text index: dense, and in the order of job IDs.

The index stores for each text the differences of successive numbers. Between two job IDs the difference takes five
bytes: their lower 24 bits are the generator and a sequence number, most of which are unused. Here each millisecond has
four numbers, and a job has the next free one from that of its sequence number on. So jobs are in the order of their
IDs, except some that were submitted within the same milliseconds, to two brokers or more than four in one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

_CLOCK, _SEQUENCE = 24, 0x3FF  # RFC 19: bits below the milliseconds, mask of the sequence number
_BITS = 2
_CHUNK = 64  # numbers of one statement
_PROBED = 256  # numbers after the preferred one that are tried


def numbers(db: sqlite3.Connection, jobids: Sequence[int]) -> dict[int, int]:
    """Return the numbers of jobs, new ones for those that the store does not have."""
    found: dict[int, int] = {}
    for some in _chunks(jobids):
        found.update(db.execute(f"SELECT id, num FROM jobs WHERE id IN ({_marks(some)})", some))  # noqa: S608 - values are bound
    new = sorted(set(jobids) - found.keys())
    free = _FreeNumbers(db, [preferred(jobid) for jobid in new])
    return found | {jobid: free.take(preferred(jobid)) for jobid in new}


def preferred(jobid: int) -> int:
    """Return the number of a job if no other job has it."""
    return (jobid >> _CLOCK) << _BITS | min(jobid & _SEQUENCE, (1 << _BITS) - 1)


class _FreeNumbers:
    """Numbers that no job has.

    Args:
        db: has the jobs.
        wanted: numbers that will be taken, if they are free.
    """

    def __init__(self, db: sqlite3.Connection, wanted: Sequence[int]) -> None:
        self._db = db
        self._taken: set[int] = set()
        self._probed: set[int] = set()
        self._next: dict[int, int] = {}
        """For a number that is not free, the next one to try."""
        self._last = 0
        self._highest: int | None = None
        for some in _chunks(wanted):
            sql = f"SELECT num FROM documents WHERE num IN ({_marks(some)})"  # noqa: S608 - values are bound
            self._taken.update(num for (num,) in db.execute(sql, some))

    def take(self, first: int) -> int:
        """Return the first free number from ``first`` on; if 256 are taken, one above the highest in use."""
        if first in self._taken and first not in self._probed:  # also if a job of this batch has just taken it
            self._probed.add(first)
            sql = "SELECT num FROM documents WHERE num BETWEEN ? AND ?"
            self._taken.update(num for (num,) in self._db.execute(sql, (first, first + _PROBED)))
        number = self._next.get(first, first)
        while number in self._taken and number <= first + _PROBED:
            number += 1
        if number > first + _PROBED:
            if self._highest is None:
                [highest] = self._db.execute("SELECT coalesce(max(num), 0) FROM documents").fetchone()
                self._highest = int(highest)
            number = self._highest = max(self._highest, self._last) + 1
        self._taken.add(number)
        self._last = max(self._last, number)
        self._next[first] = min(number + 1, first + _PROBED + 1)
        return number


def _chunks(values: Sequence[int]) -> Iterator[Sequence[int]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _marks(values: Sequence[int]) -> str:
    return ", ".join("?" * len(values))
