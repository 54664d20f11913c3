"""Limits for log lines: a flood of requests, or of repeated errors, must not become a flood of lines.

Dropped lines are counted, and the counts are logged. Audit lines of completed changes are never dropped: there are as
many as changes, and --rate-limit limits those.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from sidecar.runtime.rate_limiter import RateLimiter


class Rate(NamedTuple):
    """A limit of a token bucket."""

    per_second: float
    burst: float


#: Requests that are not admitted, from one client address.
REFUSED_CLIENT = Rate(5, 50)
#: Requests that are not admitted, from all addresses.
REFUSED = Rate(50, 500)
#: Repetitions of one warning or error.
REPEATED = Rate(2, 20)
#: Changes of jobs.
JOBS = Rate(2000, 50_000)
#: All lines except those of the audit and of jobs.
ALL = Rate(500, 5000)

_REPORT_INTERVAL = 5.0  # seconds between two lines with the counts of dropped lines


class LogBudget:
    """Decide whether a line is written.

    Args:
        clock: monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        rates = (REFUSED_CLIENT, REFUSED, REPEATED, JOBS, ALL)
        self._limiters = {rate: RateLimiter(*rate, clock) for rate in rates}
        self._dropped: Counter[str] = Counter()
        self._reported = clock()
        self._lock = threading.RLock()  # lines are written by every thread and by signal handlers

    def acquire(self, kind: str, *limits: tuple[Rate, str]) -> bool:
        """Acquire a token for a line from each of some buckets; return whether the line is written.

        Args:
            kind: kind of the line, for the counts of dropped lines.
            limits: rates, each with the name of its bucket.
        """
        with self._lock:
            for rate, bucket in limits:
                if self._limiters[rate].acquire(bucket):
                    self._dropped[kind] += 1
                    return False
            return True

    def count_dropped(self, kind: str, number: int) -> None:
        """Count lines that were dropped for another reason."""
        with self._lock:
            self._dropped[kind] += number

    def take_dropped(self, *, now: bool = False) -> dict[str, int]:
        """Return the number of dropped lines by kind, and reset it; empty before the report is due.

        Args:
            now: the report is due now.
        """
        with self._lock:
            if not self._dropped or (not now and self._clock() - self._reported < _REPORT_INTERVAL):
                return {}
            dropped, self._dropped = dict(self._dropped), Counter()
            self._reported = self._clock()
            return dropped
