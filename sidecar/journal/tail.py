"""The most recent events, kept in memory once for all subscribers.

A subscriber is only a position. It reads from memory while it keeps up, otherwise from the store, so a slow subscriber
delays no other one and costs no memory.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sidecar.domain.closed import Closed
from sidecar.store import LoggedEvents, Store

_RECENT, _RECENT_SIZE = 4096, 16 * 1024 * 1024  # minimum number of rows in memory, unless they exceed these bytes
_CHUNK, _CHUNK_SIZE = 100, 64 * 1024  # limits of one read; a stalled subscriber keeps one chunk in memory
_EVENT = 256  # bytes of a rendered event beside its JSON
_WAKE = 100  # futures resolved in one iteration of the event loop, which has other requests to serve


class Notifier:
    """Futures that are resolved at the next notification, a limited number per loop iteration."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def next(self) -> Iterator[asyncio.Future[None]]:
        """Provide a future that is done at the next notification; it is dropped when the context is left."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            yield future
        finally:
            self._waiting.pop(future, None)

    async def wait(self) -> None:
        """Wait for the next notification."""
        with self.next() as future:
            await future

    def wake(self) -> None:
        """Resolve the current futures: the first ones now, the rest in the next iterations of the loop."""
        waiting, self._waiting = list(self._waiting), {}
        self._wake(waiting)

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting[:_WAKE]:
            if not future.done():
                future.set_result(None)
        if len(waiting) > _WAKE:
            asyncio.get_running_loop().call_soon(self._wake, waiting[_WAKE:])


class Tail:
    """Read events from any position on, from memory or from the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: list[LoggedEvents] = []
        self._notifier = Notifier()
        self.size = 0
        """Bytes of the events in memory, including their rendered form (approximate)."""
        self.closed: Closed | None = None
        """Why there will be no more events; None while there will be."""
        self.generation = 0
        """Changes when the store is replaced by one of another instance: positions restart then."""

    def publish(self, logged: Sequence[LoggedEvents]) -> None:
        """Append events that were written to the store, and wake the subscribers."""
        self._recent += logged
        self.size += sum(map(_size, logged))
        if len(self._recent) > 2 * _RECENT or self.size > 2 * _RECENT_SIZE:
            self._trim()
        self._notifier.wake()

    def _trim(self) -> None:
        """Drop the oldest events: all beyond the number, then as many as exceed the bytes."""
        first = max(0, len(self._recent) - _RECENT)
        self.size -= sum(map(_size, self._recent[:first]))
        while first < len(self._recent) - 1 and self.size > _RECENT_SIZE:
            self.size -= _size(self._recent[first])
            first += 1
        del self._recent[:first]

    def restart(self) -> None:
        """Start again without events: the store was replaced."""
        self._recent.clear()
        self.size = 0
        self.generation += 1
        self._notifier.wake()

    def close(self, reason: str, detail: str) -> None:
        """End every stream, with this reason."""
        self.closed = Closed(reason, detail)
        self._notifier.wake()

    async def wait(self, after: int, generation: int) -> None:
        """Wait until there are events after a position.

        Raises:
            Closed: there will be no more events.
        """
        while True:
            if generation == self.generation and after < self._store.position:
                return
            self.check(generation)
            await self._notifier.wait()

    def check(self, generation: int) -> None:
        """Check that a subscriber which has read all events may wait for more.

        Raises:
            Closed: there will be no more events.
        """
        if generation != self.generation:
            raise Closed("instance", "Another instance has replaced this one; event positions restart.")
        if self.closed:
            raise self.closed

    async def read(self, after: int, jobid: int | None = None) -> tuple[Sequence[LoggedEvents], int]:
        """Return events after a position, of one job or of all, and the position up to which they are complete."""
        recent, last = self._recent, self._store.position
        if recent and after >= recent[0].position - recent[0].count:
            first = bisect_right(recent, after, key=lambda logged: logged.position)
            chunk = _chunk(recent, first)
            last = chunk[-1].position if chunk else after
            return [each for each in chunk if jobid in (None, each.jobid)], last
        # Only up to this position: events written during this read belong to the next one, and would come twice.
        logged = await self._store.events_between(after, last, _CHUNK, jobid)
        return logged, logged[-1].position if logged else max(after, last)


def _size(logged: LoggedEvents) -> int:
    """Return the bytes of a row, including its rendered form."""
    return 2 * len(logged.json) + _EVENT * logged.count


def _chunk(recent: Sequence[LoggedEvents], first: int) -> list[LoggedEvents]:
    """Return rows from an index on, limited by number and bytes."""
    chunk: list[LoggedEvents] = []
    size = 0
    for logged in recent[first : first + _CHUNK]:
        chunk.append(logged)
        size += len(logged.json)
        if size > _CHUNK_SIZE:
            break
    return chunk
