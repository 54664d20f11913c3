"""The end of the event log, for who follows it: what was told last, kept in memory once for all readers.

A reader is only a position. It reads from here when it keeps up, and from the store when it does not, so a slow one
holds nothing back and costs no memory.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sidecar.domain.errors import Closed
from sidecar.store import LoggedEvents, Store

_KEPT, _KEPT_SIZE = 4096, 16 * 1024 * 1024  # at least so many of what was told last, unless they are of more bytes
_CHUNK, _CHUNK_SIZE = 100, 64 * 1024  # also what a reader that takes nothing keeps from being freed
_EVENT = 256  # bytes that a rendered event takes beside its JSON
_WAKE = 100  # readers that are woken in one turn of the loop, which has other callers to serve


class Notifier:
    """Callers that wait for a next time, woken some at a time."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[None], None] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def next(self) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done the next time; who leaves earlier is forgotten."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            yield future
        finally:
            self._waiting.pop(future, None)

    async def wait(self) -> None:
        """Wait for the next time."""
        with self.next() as future:
            await future

    def wake(self) -> None:
        """Wake who waits now, the first ones at once and the rest in the next turns of the loop."""
        waiting, self._waiting = list(self._waiting), {}
        self._wake(waiting)

    def _wake(self, waiting: list[asyncio.Future[None]]) -> None:
        for future in waiting[:_WAKE]:
            if not future.done():
                future.set_result(None)
        if len(waiting) > _WAKE:
            asyncio.get_running_loop().call_soon(self._wake, waiting[_WAKE:])


class Tail:
    """Hands out what was told, from any position on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._recent: list[LoggedEvents] = []
        self._size = 0
        self._wakeups = Notifier()
        self.closed: Closed | None = None
        """Why there will be no more events; None while there will."""
        self.generation = 0
        """Changes when another instance's store has taken the place of this one: positions begin anew then."""

    def publish(self, told: Sequence[LoggedEvents]) -> None:
        """Take what was told and is in the store now."""
        self._recent += told
        self._size += sum(map(_size, told))
        if len(self._recent) > 2 * _KEPT or self._size > 2 * _KEPT_SIZE:
            self._drop()
        self._wakeups.wake()

    def _drop(self) -> None:
        """Keep the last ones: by number, and by bytes."""
        first = max(0, len(self._recent) - _KEPT)
        self._size -= sum(map(_size, self._recent[:first]))
        while first < len(self._recent) - 1 and self._size > _KEPT_SIZE:
            self._size -= _size(self._recent[first])
            first += 1
        del self._recent[:first]

    def restart(self) -> None:
        """Begin anew: the store is another one."""
        self._recent.clear()
        self._size = 0
        self.generation += 1
        self._wakeups.wake()

    def close(self, reason: str, detail: str) -> None:
        """Tell every reader that there is no more."""
        self.closed = Closed(reason, detail)
        self._wakeups.wake()

    async def wait(self, after: int, generation: int) -> None:
        """Wait until something was told behind a position.

        Raises:
            Closed: nothing will be.
        """
        while True:
            if generation == self.generation and after < self._store.position:
                return
            self.check(generation)
            await self._wakeups.wait()

    def check(self, generation: int) -> None:
        """Let a reader go on that has read all there is.

        Raises:
            Closed: there is nothing to wait for.
        """
        if generation != self.generation:
            raise Closed("instance", "Another instance has taken the place of this one; positions begin anew.")
        if self.closed:
            raise self.closed

    async def read(self, after: int, job: int | None = None) -> tuple[Sequence[LoggedEvents], int]:
        """Return what was told behind a position, of all jobs or of one, and up to where was looked."""
        recent, last = self._recent, self._store.position
        if recent and after >= recent[0].position - recent[0].count:
            first = bisect_right(recent, after, key=lambda told: told.position)
            told = _slice(recent, first)
            last = told[-1].position if told else after
            return [each for each in told if job in (None, each.job)], last
        # No further than that: what is written while this is read comes next time, and would come twice.
        told = await self._store.told(after, last, _CHUNK, job)
        return told, told[-1].position if told else max(after, last)


def _size(told: LoggedEvents) -> int:
    """Return how many bytes a row takes once it is rendered for subscribers."""
    return 2 * len(told.json) + _EVENT * told.count


def _slice(recent: Sequence[LoggedEvents], first: int) -> list[LoggedEvents]:
    """Return some of what was told, from one on: by number, and by bytes."""
    found: list[LoggedEvents] = []
    size = 0
    for told in recent[first : first + _CHUNK]:
        found.append(told)
        size += len(told.json)
        if size > _CHUNK_SIZE:
            break
    return found
