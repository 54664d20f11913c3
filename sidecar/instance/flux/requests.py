"""Requests to the broker: queued on the event loop, sent in the Flux thread, answered on the event loop."""

from __future__ import annotations

import asyncio
import errno
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from sidecar.domain.errors import NotSent, ResponseTimeout, Unavailable
from sidecar.instance.flux import payload
from sidecar.instance.flux.handoff import Delivery, Wakeup

T = TypeVar("T")
Start = Callable[[Any], Any]
"""Sends a request: called with the Flux handle, returns the Flux future, or None if there is nothing to wait for."""
Finish = Callable[[Any], T]
"""Reads the response from the Flux future."""

_BATCH = 64  # requests that are sent before the reactor handles other events
_BROKEN = (errno.EPIPE, errno.ECONNRESET)


class _Request(msgspec.Struct):
    start: Start
    finish: Finish[Any]
    future: asyncio.Future[Any]
    queued_at: float = msgspec.field(default_factory=time.monotonic)
    claims: list[None] = msgspec.field(default_factory=lambda: [None])

    def claim(self) -> bool:
        """Return True to one thread: to the Flux thread, which sends it, or to the event loop, which expires it."""
        try:
            self.claims.pop()
        except IndexError:
            return False
        return True


class Requests:
    """Sends requests and returns their responses.

    Args:
        loop: the event loop.
        wakeup: wakes the Flux thread.
        delivery: runs functions on the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, wakeup: Wakeup, delivery: Delivery) -> None:
        self._loop = loop
        self._wakeup = wakeup
        self._delivery = delivery
        self._inbox: deque[_Request] = deque()
        self._wake_scheduled = False
        self._closed = ""
        self._sent: set[asyncio.Future[Any]] = set()
        self._unanswered: dict[asyncio.Future[Any], _Request] = {}  # on the event loop
        self._late: dict[asyncio.Future[Any], asyncio.Future[Any]] = {}  # on the event loop
        self.last_reply = time.monotonic()
        """When the broker last sent a message."""
        self.first_unanswered = 0.0
        """When the first request since then was sent: only from there on does silence mean anything."""

    # --------------------------------------------------------------------------------------- on the event loop

    def call(self, start: Start, finish: Finish[T]) -> asyncio.Future[T]:
        """Run ``start(handle)`` in the Flux thread, and ``finish`` on the Flux future that it returns.

        Returns:
            A future with the result of ``finish``, or the OSError that either raised.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        request = self._unanswered[future] = _Request(start, finish, future)
        self._queue(request)
        return future

    def call_untimed(self, start: Start, finish: Finish[T]) -> asyncio.Future[T]:
        """Like :meth:`call`, without a timeout: the response may take any time, and its error may go unread."""
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(_mark_retrieved)
        self._queue(_Request(start, finish, future))
        return future

    def expire_before(self, sent_before: float, detail: str) -> None:
        """End the wait for responses to requests that were queued before a time (:func:`time.monotonic`).

        The caller of a request that was sent gets :class:`ResponseTimeout`; its ``result`` is a future with the late
        response. One that was not sent never will be: its caller gets :class:`NotSent`, and may repeat it.
        """
        for future, request in list(self._unanswered.items()):
            if request.queued_at >= sent_before:
                break
            del self._unanswered[future]
            if future.done():
                continue
            if request.claim():
                future.set_exception(NotSent(detail))
            else:
                late = self._late[future] = self._loop.create_future()
                late.add_done_callback(_mark_retrieved)
                future.set_exception(ResponseTimeout(detail, late))

    @property
    def late(self) -> int:
        """The number of expired requests that still have no response."""
        return len(self._late)

    @property
    def queued(self) -> bool:
        """Whether requests wait for the Flux thread."""
        return bool(self._inbox)

    @property
    def stuck_for(self) -> float:
        """How long the Flux thread has not taken a queued request, in seconds; only valid while connected."""
        try:
            return time.monotonic() - self._inbox[0].queued_at
        except IndexError:
            return 0.0

    def _queue(self, request: _Request) -> None:
        self._inbox.append(request)
        if self._closed:  # set before close() empties the inbox for the last time: no request is missed by both
            self.fail_all(self._closed)
            return
        if not self._wake_scheduled:
            self._wake_scheduled = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Wake the thread once for all requests of this iteration of the loop."""
        self._wake_scheduled = False
        self._wakeup.notify()

    def _settle(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        """Set the result for the caller that waits, or for one that asks for the late response."""
        self._unanswered.pop(future, None)
        target = self._late.pop(future, future)
        if target.done():
            return  # the caller no longer waits
        if error is None:
            target.set_result(value)
        else:
            target.set_exception(error)

    # -------------------------------------------------------------------------------------- in the Flux thread

    def note_reply(self) -> None:
        """Note that the broker has sent a message."""
        self.last_reply = time.monotonic()

    def send_queued(self, handle: Any) -> None:
        """Send the requests that are queued, a batch at a time.

        Raises:
            OSError: the connection is broken.
        """
        for _ in range(_BATCH):
            if not self._inbox:
                return
            request = self._inbox.popleft()
            if not request.claim():
                continue  # it has expired
            future = request.future
            self._sent.add(future)
            if self.first_unanswered <= self.last_reply:
                self.first_unanswered = time.monotonic()
            try:
                rpc = request.start(handle)
                if rpc is None:
                    self._resolve(future, None, None)
                else:
                    rpc.then(self._on_response, request.finish, future)
            except OSError as exc:
                self._resolve(future, None, exc)
                if exc.errno in _BROKEN:
                    raise
            except Exception as exc:  # an error of this one request
                self._resolve(future, None, exc)
        if self._inbox:  # the rest in the reactor's next iteration: responses come first
            self._wakeup.notify()

    def close(self, reason: str) -> None:
        """Fail all requests, those of the future included: the Flux thread is about to end."""
        self._closed = reason
        self.fail_all(reason)

    def fail_all(self, reason: str) -> None:
        """Fail the requests that were sent or are queued; the event loop may add to the inbox meanwhile."""
        error = Unavailable(f"The connection to the instance is lost: {reason}")
        while True:
            try:
                future = self._sent.pop() if self._sent else self._inbox.popleft().future
            except (IndexError, KeyError):  # emptied, possibly by the other thread
                return
            self._delivery.post(self._settle, future, None, error)

    def _on_response(self, rpc: Any, finish: Finish[Any], future: asyncio.Future[Any]) -> None:
        self.note_reply()
        try:
            self._resolve(future, finish(rpc), None)
        except OSError as exc:
            self._resolve(future, None, OSError(exc.errno, rpc.error_string() or exc.strerror))
        except Exception as exc:  # a response that violates the protocol
            self._resolve(future, None, OSError(errno.EPROTO, f"unexpected response: {exc}"))
        finally:
            payload.release(rpc)

    def _resolve(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        self._sent.discard(future)
        self._delivery.post(self._settle, future, value, error)


def _mark_retrieved(done: asyncio.Future[Any]) -> None:
    """Mark the error of a future as retrieved, so that asyncio does not log it if nothing reads it."""
    if not done.cancelled():
        done.exception()
