"""How many lines the log takes: a flood of requests, or of one and the same error, is not a flood of lines.

What is left out is counted, and the count is a line of its own. Never left out is the audit of a change that was made:
those are as many as the changes, and --rate-limit bounds them.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from sidecar.runtime.rate_limiter import RateLimiter


class Rate(NamedTuple):
    """So many lines a second, and at once."""

    second: float
    once: float


#: Of requests that are not let in, from one address.
STRANGER = Rate(5, 50)
#: Of requests that are not let in, from all addresses.
STRANGERS = Rate(50, 500)
#: Of one warning or error.
SAME = Rate(2, 20)
#: Of changes of jobs.
JOBS = Rate(2000, 50_000)
#: Of all lines but the audit's and those of jobs.
ALL = Rate(500, 5000)

_REPORT = 5.0  # seconds between two lines that say how many were left out


class LogBudget:
    """Says whether a line is written.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets = {rate: RateLimiter(*rate, clock) for rate in (STRANGER, STRANGERS, SAME, JOBS, ALL)}
        self._left_out: Counter[str] = Counter()
        self._reported = clock()
        self._lock = threading.RLock()  # lines come from every thread, and from the handlers of signals

    def take(self, what: str, *limits: tuple[Rate, str]) -> bool:
        """Take a line of each of some rates.

        Args:
            what: kind of line, for the count of those that are left out.
            limits: rates, and the name of the bucket of each.

        Returns:
            Whether the line is written.
        """
        with self._lock:
            for rate, name in limits:
                if self._buckets[rate].acquire(name):
                    self._left_out[what] += 1
                    return False
            return True

    def leave_out(self, what: str, number: int) -> None:
        """Count lines that were left out for another reason."""
        with self._lock:
            self._left_out[what] += number

    def due(self, *, now: bool = False) -> dict[str, int]:
        """Return how many lines of each kind were left out, when it is time to say so; then it is begun anew.

        Args:
            now: it is time, however short ago the last count was.
        """
        with self._lock:
            if not self._left_out or (not now and self._clock() - self._reported < _REPORT):
                return {}
            left_out, self._left_out = dict(self._left_out), Counter()
            self._reported = self._clock()
            return left_out
