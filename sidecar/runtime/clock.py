"""Time in which the event loop could work.

A time-out says how long a peer may take. While the loop stands, what a peer has sent is not read, and what it reads is
not written: that time is not the peer's. So time-outs of connections are measured by a clock that stands with the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

_BEAT = 0.25  # seconds
_TOLERANCE = 0.05  # seconds that a beat may be late in a loop that works


class LoopClock:
    """A clock that stands while the loop stands. Until it is started it is the loop's own."""

    def __init__(self) -> None:
        self._stood = 0.0
        self._due: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._schedule(asyncio.get_running_loop())

    def close(self) -> None:
        """Measure no longer."""
        if self._handle is not None:
            self._handle.cancel()
        self._due = self._handle = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = loop.time() + _BEAT
        self._handle = loop.call_at(self._due, self._beat)

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        self._stood += self._late(loop.time())
        self._schedule(loop)

    def _late(self, now: float) -> float:
        """Return for how long the loop has stood beyond the beat that is due."""
        return 0.0 if self._due is None else max(0.0, now - self._due - _TOLERANCE)

    def time(self) -> float:
        """Return the seconds in which the loop could work, since some moment."""
        now = asyncio.get_running_loop().time()
        return now - self._stood - self._late(now)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back when the loop could work for so many seconds."""
        return Timer(self, seconds, callback)

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float) -> AsyncIterator[None]:
        """Limit what is done in this context, as :func:`asyncio.timeout` does, to seconds in which the loop could work.

        Raises:
            TimeoutError: it took longer.
        """
        async with asyncio.timeout(None) as limit:
            timer = self.call_later(seconds, lambda: limit.reschedule(asyncio.get_running_loop().time()))
            try:
                yield
            finally:
                timer.cancel()


class Timer:
    """One callback of a :class:`LoopClock`."""

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
        """Call back no more."""
        self._handle.cancel()
