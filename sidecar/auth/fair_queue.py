"""Limit the concurrent requests to a remote authentication server, with slots reserved for known credentials.

Invented credentials cost a client nothing. In one common queue, one address that sends them could lock out all other
clients while the remote server is slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator

from sidecar.domain.errors import AuthBackendUnavailable

_WAIT = 5.0  # seconds


class QueueTimeout(AuthBackendUnavailable):
    """No slot was free in time; the remote server was not requested."""


class FairQueue:
    """The slots of one method.

    Args:
        at_once: number of slots. Unknown credentials get five eighths of them, one address a quarter.
        wait: timeout of a waiter in seconds.
    """

    def __init__(self, at_once: int, wait: float = _WAIT) -> None:
        self._max = at_once
        self._max_unknown = max(1, 5 * at_once // 8)  # the rest suffices for all requests about one caller
        self._max_each = max(1, at_once // 4)
        self._wait = wait
        self._taken: Counter[str | None] = Counter()
        self._waiting: OrderedDict[str | None, deque[asyncio.Future[None]]] = OrderedDict()

    @contextlib.asynccontextmanager
    async def slot(self, name: str | None) -> AsyncIterator[None]:
        """Wait for a slot, and occupy it in this context.

        Args:
            name: address that sent an unknown credential; None: the credential was accepted before.

        Raises:
            QueueTimeout: no slot was free in time.
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
        """Whether a slot is free for an address."""
        if self._taken.total() >= self._max:
            return False
        unknown = self._taken.total() - self._taken[None]
        return name is None or (unknown < self._max_unknown and self._taken[name] < self._max_each)

    async def _wait_for_one(self, name: str | None) -> None:
        given = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, deque()).append(given)
        try:
            async with asyncio.timeout(self._wait):
                await given
        except BaseException as exc:
            if given.done() and not given.cancelled():
                self._end(name)  # the slot was assigned in the same iteration of the loop
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
        """Free a slot and assign it round-robin by address: no address waits for the backlog of another."""
        self._taken -= Counter((name,))
        for other in list(self._waiting):
            if self._may(other) and (given := self._next(other)):
                self._taken[other] += 1
                given.set_result(None)

    def _next(self, name: str | None) -> asyncio.Future[None] | None:
        """Return the future of an address's first waiter; None if all its waiters have been cancelled."""
        waiting = self._waiting.pop(name)
        while waiting:
            given = waiting.popleft()
            if not given.done():  # else it was cancelled in this iteration of the loop
                if waiting:
                    self._waiting[name] = waiting  # to the end of the queue
                return given
        return None
