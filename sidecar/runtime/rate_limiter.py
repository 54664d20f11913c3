"""Rate limits by token bucket, and the key by which a client address is limited."""

from __future__ import annotations

import functools
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST = 10_000  # buckets; the least recently used ones are dropped, and start full again


class RateLimiter:
    """A token bucket for each name.

    Args:
        rate: tokens per second; 0: unlimited.
        burst: capacity of a bucket in tokens; at least one.
        clock: monotonic clock, in seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = max(1.0, burst)
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def acquire(self, name: str) -> float:
        """Take a token; return 0, or the seconds until there is one."""
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
        """Return a token."""
        if name in self._levels:
            level, at = self._levels[name]
            self._levels[name] = min(self._burst, level + 1), at


@functools.lru_cache(maxsize=4096)
def client_key(address: str) -> str:
    """Return the key of a client address: the address, or the /64 network of an IPv6 address.

    A /64 is the smallest network that a client gets, with all of its addresses.

    Args:
        address: with or without a port, as in X-Forwarded-For. Any other text is returned unchanged.
    """
    parsed = read_address(address)
    if parsed is None:
        return address
    return str(ipaddress.IPv6Network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return an address from a text with or without a port; None if it is not valid. IPv4 in IPv6 becomes IPv4."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])  # without the interface of a link-local address
    except ValueError:
        return None
    return address.ipv4_mapped or address if address.version == 6 else address
