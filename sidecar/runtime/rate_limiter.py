"""Token buckets: how often somebody may do something; and who is one and the same somebody."""

from __future__ import annotations

import functools
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST = 10_000  # names that are remembered; who comes after so many others begins with a full bucket


class RateLimiter:
    """A token bucket for each name.

    Args:
        rate: tokens that come a second; 0: no limit.
        burst: tokens that a bucket holds; at least one, or nobody could ever take any.
        clock: seconds that never go back.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def acquire(self, name: str) -> float:
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

    def refund(self, name: str) -> None:
        """Undo an acquire."""
        if name in self._levels:
            level, at = self._levels[name]
            self._levels[name] = min(self._burst, level + 1), at


@functools.lru_cache(maxsize=4096)
def client_key(address: str) -> str:
    """Return what an address is counted as: itself, or of IPv6 the /64 that it is in.

    A /64 is the least that anybody is given, and as many addresses as they like.

    Args:
        address: with a port or without, as proxies write it into X-Forwarded-For. What is no address stays what it is.
    """
    found = read_address(address)
    if found is None:
        return address
    return str(ipaddress.IPv6Network((found, 64), strict=False)) if found.version == 6 else str(found)


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address, with a port or without; None when it is none. What is IPv4 inside IPv6 is IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ipaddress.ip_address(text.partition("%")[0])  # less the interface of a link-local one
    except ValueError:
        return None
    return found.ipv4_mapped or found if found.version == 6 else found
