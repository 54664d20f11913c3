"""A clock that stops while the event loop is blocked.

A timeout limits the time of the peer. While the event loop is blocked, the server neither reads from the peer nor
writes to it: that time is not the peer's. So timeouts of connections use a clock that stops with the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

_INTERVAL = 0.25  # seconds
_TOLERANCE = 0.05  # seconds that a tick may be late without counting as blocked


class LoopClock:
    """A clock that stops while the event loop is blocked. Before :meth:`start` it is the event loop's own clock."""

    def __init__(self) -> None:
        self._blocked = 0.0
        self._due: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to measure how long the event loop is blocked."""
        self._schedule(asyncio.get_running_loop())

    def close(self) -> None:
        """Stop to measure."""
        if self._handle is not None:
            self._handle.cancel()
        self._due = self._handle = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _INTERVAL
        self._handle = loop.call_at(self._due, self._tick)

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        self._blocked += self._late(loop.time())
        self._schedule(loop)

    def _late(self, now: float) -> float:
        """Return how long the event loop has been blocked since the next tick was due, in seconds."""
        return 0.0 if self._due is None else max(0.0, now - self._due - _TOLERANCE)

    def time(self) -> float:
        """Return the time in seconds, without the time in which the event loop was blocked."""
        now = asyncio.get_running_loop().time()
        return now - self._blocked - self._late(now)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` after so many seconds of this clock."""
        return Timer(self, seconds, callback)

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Limit the time of a block, like :func:`asyncio.timeout`, by this clock.

        Raises:
            TimeoutError: the block took longer.
        """
        async with asyncio.timeout(None) as limit:
            timer = self.call_later(seconds, lambda: limit.reschedule(asyncio.get_running_loop().time()))
            try:
                yield
            finally:
                timer.cancel()


class Timer:
    """A callback of a :class:`LoopClock`."""

    __slots__ = ("_callback", "_clock", "_end", "_handle")

    def __init__(self, clock: LoopClock, seconds: float, callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._end = clock.time() + seconds
        self._handle = asyncio.get_running_loop().call_later(seconds, self._check)

    def _check(self) -> None:
        left = self._end - self._clock.time()
        if left > 0:
            self._handle = asyncio.get_running_loop().call_later(left, self._check)
        else:
            self._callback()

    def cancel(self) -> None:
        """Cancel the callback."""
        self._handle.cancel()
