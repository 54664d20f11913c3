"""FairQueue at a method that asks a remote server: so many at once, and strangers leave room for known callers.

A credential that was never let in is free to make up. Were all of them in one queue, one address with invented
credentials could keep everybody else out for as long as the remote server is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator

from sidecar.domain.errors import AuthBackendUnavailable

_WAIT = 5.0  # seconds


class QueueTimeout(AuthBackendUnavailable):
    """No turn has come in time: the remote server was not asked."""


class FairQueue:
    """The turns at one method.

    Args:
        at_once: how many there are at the same time. Strangers get five eighths of them, one address a quarter.
        wait: for how many seconds one is waited for.
    """

    def __init__(self, at_once: int, wait: float = _WAIT) -> None:
        self._most = at_once
        self._most_strangers = max(1, 5 * at_once // 8)  # what is left is enough for all questions about one caller
        self._most_each = max(1, at_once // 4)
        self._wait = wait
        self._taken: Counter[str | None] = Counter()
        self._waiting: OrderedDict[str | None, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def slot(self, name: str | None) -> AsyncIterator[None]:
        """Wait for a turn, and hold it.

        Args:
            name: the address of an unknown credential; None: a credential that was accepted before.

        Raises:
            QueueTimeout: none has come in time.
        """
        if name in self._waiting or not self._may(name):
            await self._wait_for_one(name)
        else:
            self._taken[name] += 1
        try:
            yield
        finally:
            self._end(name)

    def _may(self, name: str | None) -> bool:
        """Whether a turn is free for a name."""
        if self._taken.total() >= self._most:
            return False
        strangers = self._taken.total() - self._taken[None]
        return name is None or (strangers < self._most_strangers and self._taken[name] < self._most_each)

    async def _wait_for_one(self, name: str | None) -> None:
        given = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(given)
        try:
            async with asyncio.timeout(self._wait):
                await given
        except BaseException as exc:
            if given.done() and not given.cancelled():
                self._end(name)  # it was given at the same moment
            else:
                self._leave(name, given)
            if isinstance(exc, TimeoutError):
                raise QueueTimeout(
                    "Too many credentials that are not known yet are being checked; try again.",
                    retry_after=int(self._wait),
                ) from None
            raise

    def _leave(self, name: str | None, given: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(name, deque())
        if given in waiting:
            waiting.remove(given)
            if not waiting:
                del self._waiting[name]

    def _end(self, name: str | None) -> None:
        """Give a turn back, and on: addresses take turns, so that none of them waits for all that another has sent."""
        self._taken -= Counter((name,))
        for other in list(self._waiting):
            if self._may(other) and (given := self._next(other)):
                self._taken[other] += 1
                given.set_result(None)

    def _next(self, name: str | None) -> asyncio.Future[None] | None:
        """Return what the first of those that wait under a name waits for; None when all of them have left."""
        waiting = self._waiting.pop(name)
        while waiting:
            given = waiting.popleft()
            if not given.done():  # else it was cancelled in this very turn of the loop
                if waiting:
                    self._waiting[name] = waiting  # behind all others
                return given
        return None
