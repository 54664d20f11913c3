"""The two directions between the event loop and the Flux thread.

Both coalesce: one wake-up carries everything that is queued, since each one makes the threads compete for the GIL.
This is what makes submits fast.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

log = structlog.get_logger("flux")


class Wakeup:
    """Wakes the Flux thread, by an eventfd that it polls."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._notified = False

    def notify(self) -> None:
        """Wake the thread unless a wake-up is pending."""
        if not self._notified:
            self._notified = True
            self.force()

    def force(self) -> None:
        """Wake the thread, whether or not a wake-up is pending."""
        os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Consume the wake-up first, then let the next request send another one: in this order none is lost."""
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            pass  # not woken: a retry delay has ended
        finally:
            self._notified = False


class Delivery:
    """Runs functions on the event loop, in the order in which the Flux thread posts them.

    Args:
        loop: the event loop.
        on_closed: called in the Flux thread if the loop has closed, so that nothing can be delivered any more.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_closed: Callable[[], None]) -> None:
        self._loop = loop
        self._on_closed = on_closed
        self._queue: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._scheduled = False

    @property
    def backlog(self) -> int:
        """The number of functions that have not run yet."""
        return len(self._queue)

    def post(self, function: Callable[..., None], *args: Any) -> None:
        """Run a function on the event loop soon; called in the Flux thread."""
        self._queue.append((function, args))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._run)
            except RuntimeError:  # the loop has closed
                self._on_closed()

    def _run(self) -> None:
        """Run everything that is queued, on the event loop; an exception of one function does not stop the others."""
        self._scheduled = False
        while self._queue:
            function, args = self._queue.popleft()
            try:
                function(*args)
            except Exception as exc:
                log.exception("a response could not be delivered", to=function.__qualname__, reason=str(exc))
