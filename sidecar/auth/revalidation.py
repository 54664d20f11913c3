"""Check the callers of long requests again: a stream may go on for days after its credential was revoked.

Each method has a task of its own. So where one cannot be asked, for as long as each of its questions takes to time out,
the callers of the others are still looked at in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

import structlog
from aiohttp import web

from sidecar.auth.caller import Caller

log = structlog.get_logger("auth")

_PERIOD = 10.0  # seconds
_AT_ONCE = 4  # callers of one method: half of what the API server is asked at once, the rest is for new requests


class Revocable(Protocol):
    """What takes long."""

    request: web.Request

    @property
    def caller(self) -> Caller:
        """The caller whose request it is."""

    def revoke(self) -> None:
        """End it."""


H = TypeVar("H", bound=Revocable)


class Revalidator(Generic[H]):
    """Ends long requests whose callers are no longer authorized.

    Args:
        admissions: all that takes long; it changes meanwhile.
        stays: whether a caller is still let in; may take as long as a question to a remote server.
        methods: the methods that look at credentials; all others look at the connection alone.
    """

    def __init__(
        self,
        admissions: Collection[H],
        stays: Callable[[H], Awaitable[bool]],
        methods: Iterable[str],
    ) -> None:
        self._places = admissions
        self._stays = stays
        self._changed = {name: asyncio.Event() for name in (*methods, "")}

    def now(self) -> None:
        """Look at once: something has changed."""
        for changed in self._changed.values():
            changed.set()

    async def run(self) -> None:
        """Look every ten seconds."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_expired())
            for method in self._changed:
                group.create_task(self._watch(method))

    async def _end_expired(self) -> None:
        """End what has expired; that needs no remote check."""
        while True:
            await asyncio.sleep(_PERIOD)
            for held in list(self._places):
                expires = held.caller.expires
                if expires is not None and expires <= time.time():
                    held.revoke()

    async def _watch(self, method: str) -> None:
        changed = self._changed[method]
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _PERIOD)
            changed.clear()
            left = iter([held for held in self._places if self._method(held) == method])
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._look(left))

    def _method(self, held: H) -> str:
        method = held.caller.method
        return method if method in self._changed else ""

    async def _look(self, left: Iterator[H]) -> None:
        """Look at one after another, beside others that take from the same ones."""
        for held in left:
            if held not in self._places:
                continue  # it has ended meanwhile
            try:
                if not await self._stays(held):
                    held.revoke()
            except Exception:  # one place that cannot be looked at must not keep all the others from it
                log.exception("a caller could not be looked at again", path=held.request.path)
                held.revoke()
