"""Check the callers of long requests again: without this a stream could run for days after its credential was revoked.

Each method has a task of its own, so while the requests of one method time out, the callers of the others are still
checked in time.
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
_AT_ONCE = 4  # concurrent checks of one method: half of the requests to the API server, the rest is for new requests


class Revocable(Protocol):
    """A request in progress that can be ended."""

    request: web.Request

    @property
    def caller(self) -> Caller:
        """The caller of the request."""

    def revoke(self) -> None:
        """End the request."""


H = TypeVar("H", bound=Revocable)


class Revalidator(Generic[H]):
    """End long requests of callers that are no longer authorized.

    Args:
        admissions: all requests in progress; changes concurrently.
        is_authorized: returns whether the caller is still authorized; may send requests to a remote server.
        methods: names of the methods that check credentials; all others use the connection only.
    """

    def __init__(
        self,
        admissions: Collection[H],
        is_authorized: Callable[[H], Awaitable[bool]],
        methods: Iterable[str],
    ) -> None:
        self._admissions = admissions
        self._is_authorized = is_authorized
        self._changed = {name: asyncio.Event() for name in (*methods, "")}

    def now(self) -> None:
        """Check all requests now."""
        for changed in self._changed.values():
            changed.set()

    async def run(self) -> None:
        """Check all requests every ten seconds."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._end_expired())
            for method in self._changed:
                group.create_task(self._watch(method))

    async def _end_expired(self) -> None:
        """End requests with an expired credential; this needs no remote check."""
        while True:
            await asyncio.sleep(_PERIOD)
            for admission in list(self._admissions):
                expires = admission.caller.expires
                if expires is not None and expires <= time.time():
                    admission.revoke()

    async def _watch(self, method: str) -> None:
        changed = self._changed[method]
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(changed.wait(), _PERIOD)
            changed.clear()
            left = iter([admission for admission in self._admissions if self._method(admission) == method])
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(self._check(left))

    def _method(self, admission: H) -> str:
        method = admission.caller.method
        return method if method in self._changed else ""

    async def _check(self, left: Iterator[H]) -> None:
        """Check requests one by one; concurrent tasks share the iterator."""
        for admission in left:
            if admission not in self._admissions:
                continue  # the request has ended meanwhile
            try:
                if not await self._is_authorized(admission):
                    admission.revoke()
            except Exception:  # one failed check must not prevent the others
                log.exception("a caller could not be checked again", path=admission.request.path)
                admission.revoke()
