"""A response of the instance that is requested at most once a second, however many callers need it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import structlog

from sidecar.domain import untrusted
from sidecar.domain.errors import Unavailable

T = TypeVar("T")
log = structlog.get_logger("flux")

_MAX_AGE = 1.0  # seconds


class CachedAnswer(Generic[T]):
    """The last response to one request.

    Args:
        what: the subject of the request, for the log.
        request: sends the request; if it raises OSError or Unavailable, the last response stays.
        initial: the value before the first response.
    """

    def __init__(self, what: str, request: Callable[[], Awaitable[T]], initial: T) -> None:
        self._what = what
        self._request = request
        self._initial = initial
        self._updated = -_MAX_AGE
        self._problem = ""
        self._renewal: asyncio.Task[T] | None = None
        self.last = initial
        """The last response, of any age."""

    def clear(self) -> None:
        """Discard the last response: it may be from another instance."""
        self.last, self._updated = self._initial, -_MAX_AGE

    async def get(self) -> T:
        """Return a response that is at most a second old, or the last one if none can be had."""
        if time.monotonic() - self._updated < _MAX_AGE:
            return self.last
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew())
        return await asyncio.shield(self._renewal)

    async def renew(self) -> T:
        """Request again after a change; the response to an earlier request may be out of date."""
        if self._renewal and not self._renewal.done():
            await asyncio.wait([self._renewal])
        self._updated = -_MAX_AGE  # if this request fails, the next caller requests again
        self._renewal = asyncio.create_task(self._renew())
        return await asyncio.shield(self._renewal)

    async def _renew(self) -> T:
        try:
            self.last = await self._request()
            self._updated = time.monotonic()
            self._problem = ""
        except (OSError, Unavailable, ValueError, TypeError, KeyError, AttributeError) as exc:
            # No response, or one that violates the protocol: the last one stays, and its age shows that.
            problem = untrusted.text(f"{type(exc).__name__}: {exc}", 500)
            if problem != self._problem:
                log.warning("Flux does not report its state", what=self._what, reason=problem)
            self._problem = problem
        return self.last
