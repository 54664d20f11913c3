"""Retry calls of the store until they succeed: while the disk is full, job events are delayed but not lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from sidecar.store import StoreError

T = TypeVar("T")
log = structlog.get_logger("feed")

STUCK = 3.0
"""Seconds after which a store call that has not succeeded means that the store cannot be written."""
_INTERVAL = 1.0  # seconds
_LOG_INTERVAL = 60.0


class Retry:
    """Repeat a call while it raises :class:`StoreError`, and report for how long."""

    def __init__(self) -> None:
        self.problem = ""
        """Error of the current call; empty if the last attempt succeeded."""
        self._started: float | None = None
        self._logged = -_LOG_INTERVAL

    @property
    def stuck(self) -> float:
        """Seconds that the current call has taken, retries included; 0 if there is none."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    async def until_done(self, call: Callable[[], Awaitable[T]]) -> T:
        """Repeat a call until it succeeds; return its result."""
        self._started = time.monotonic()
        try:
            while True:
                try:
                    result = await call()
                except StoreError as exc:
                    self._note(str(exc))
                    await asyncio.sleep(_INTERVAL)
                else:
                    if self.problem:
                        log.info("events are stored again", seconds=round(self.stuck, 1))
                        self.problem, self._logged = "", -_LOG_INTERVAL
                    return result
        finally:
            self._started = None

    def _note(self, problem: str) -> None:
        now = time.monotonic()
        if self.problem != problem and now - self._logged >= _LOG_INTERVAL:
            log.error("events cannot be stored", reason=problem)
            self._logged = now
        self.problem = problem
