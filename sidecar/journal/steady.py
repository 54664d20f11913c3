"""Calls of the store that are repeated until they succeed: a full disk delays what is seen of jobs, and loses none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from sidecar.store import StoreError

T = TypeVar("T")
log = structlog.get_logger("feed")

_RETRY = 1.0  # seconds
_LOG_AGAIN = 60.0


class Steady:
    """Repeats what the store could not do."""

    def __init__(self) -> None:
        self.problem = ""
        """Why events cannot be written just now; empty while they can."""
        self._began: float | None = None
        self._logged = -_LOG_AGAIN

    @property
    def stuck(self) -> float:
        """How long the call under way has taken, with all its repetitions (seconds); 0 when there is none."""
        return 0.0 if self._began is None else time.monotonic() - self._began

    async def until_done(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a call until it succeeds, and return its result."""
        self._began = time.monotonic()
        try:
            while True:
                try:
                    result = await call()
                except StoreError as exc:
                    self._note(str(exc))
                    await asyncio.sleep(_RETRY)
                else:
                    if self.problem:
                        log.info("events are stored again", seconds=round(self.stuck, 1))
                        self.problem, self._logged = "", -_LOG_AGAIN
                    return result
        finally:
            self._began = None

    def _note(self, problem: str) -> None:
        now = time.monotonic()
        if self.problem != problem and now - self._logged >= _LOG_AGAIN:
            log.error("events cannot be stored", reason=problem)
            self._logged = now
        self.problem = problem
