"""Token buckets: how often somebody may do something."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

_MOST = 10_000  # names that are remembered; who comes after so many others begins with a full bucket


class Buckets:
    """A token bucket for each name.

    Args:
        rate: tokens that come a second; 0: no limit.
        burst: tokens that a bucket holds.
        clock: seconds that never go back.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str) -> float:
        """Take a token; return 0, or after how many seconds there will be one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        level, at = self._levels.pop(name, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        self._levels[name] = (level - 1 if not wait else level), now
        if len(self._levels) > _MOST:
            self._levels.popitem(last=False)
        return wait

    def give_back(self, name: str) -> None:
        """Undo a take."""
        if name in self._levels:
            level, at = self._levels[name]
            self._levels[name] = min(self._burst, level + 1), at
