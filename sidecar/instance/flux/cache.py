"""An answer of the instance that is asked for at most once a second, however many callers want it."""

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

_MAX_AGE = 1.0


class CachedAnswer(Generic[T]):
    """The last answer to one question.

    Args:
        what: what is asked for, for the log.
        ask: asks; where it raises OSError or Unavailable, the last answer stays.
        nothing: what is known before the first answer.
    """

    def __init__(self, what: str, ask: Callable[[], Awaitable[T]], nothing: T) -> None:
        self._what = what
        self._ask = ask
        self._nothing = nothing
        self._answered = -_MAX_AGE
        self._problem = ""
        self._asking: asyncio.Task[T] | None = None
        self.known = nothing
        """The last answer, however old."""

    def forget(self) -> None:
        """Know nothing: it may be another instance."""
        self.known, self._answered = self._nothing, -_MAX_AGE

    async def get(self) -> T:
        """Return an answer that is at most a second old, or the last one where there is none to be had."""
        if time.monotonic() - self._answered < _MAX_AGE:
            return self.known
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._renew())
        return await asyncio.shield(self._asking)

    async def renew(self) -> T:
        """Ask again after a change; what was asked for before it may be out of date."""
        if self._asking and not self._asking.done():
            await asyncio.wait([self._asking])
        self._answered = -_MAX_AGE  # should there be no answer now, the next caller asks again
        self._asking = asyncio.create_task(self._renew())
        return await asyncio.shield(self._asking)

    async def _renew(self) -> T:
        try:
            self.known = await self._ask()
            self._answered = time.monotonic()
            self._problem = ""
        except (OSError, Unavailable, ValueError, TypeError, KeyError, AttributeError) as exc:
            # Not there, or not as its protocol says: what is known stays, and its age tells.
            problem = untrusted.text(f"{type(exc).__name__}: {exc}", 500)
            if problem != self._problem:
                log.warning("Flux does not tell", what=self._what, reason=problem)
            self._problem = problem
        return self.known
