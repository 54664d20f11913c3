"""A connection: limits of the data that it may send ahead of responses, and errors of HTTP itself.

aiohttp limits a body that a handler reads, but neither of these. Its connection handler is extended here;
``tests/unit/test_dependencies.py`` covers the members that this relies on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.web_protocol import _ErrInfo

from sidecar.domain.errors import HeadTooLarge, Problem
from sidecar.http import problems, unreadable
from sidecar.http.headers import HEADERS
from sidecar.http.send_watchdog import SendWatchdog
from sidecar.http.unreadable import MAX_HEAD, MAX_HEADERS, MAX_LINE, BodyUnreadable

log = structlog.get_logger("server")

LINGER = 2.0
"""Seconds for the peer to read a last response, while the data that it still sends is dropped."""

_MAX_AHEAD = 64 * 1024  # bytes that may follow a request before its response
_READ_BUFFER = 32 * 1024  # bytes of a body at which aiohttp stops reading until the handler takes some; twice as a peak
_MAX_DROPPED = 4 * 1024 * 1024  # bytes
_KEEP_ALIVE = 75.0  # seconds; more than the idle timeout of usual proxies

RequestHandler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Handler(web.RequestHandler):
    """aiohttp's handler of a connection, within limits.

    Args:
        server: handles the requests.
        watchdog: watches unsent data.
        request_started: called with this handler at its first request.
    """

    def __init__(self, server: web.Server, watchdog: SendWatchdog, request_started: Callable[[Handler], None]) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_KEEP_ALIVE,
            access_log=None,  # type: ignore[arg-type] # None disables it
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
            max_headers=MAX_HEADERS,
            read_bufsize=_READ_BUFFER,
            auto_decompress=False,  # a megabyte may unpack to a gigabyte, in the event loop
        )
        self.watchdog = watchdog
        self._request_started = request_started
        self._request: web.BaseRequest | None = None
        self._answered = 0
        self._ahead = 0
        self._paused_ahead = False
        self._incoming: StreamReader = EMPTY_PAYLOAD
        self._broken = False
        self._dropped = 0
        self._closing: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------------ receiving

    def data_received(self, data: bytes) -> None:
        """Parse data, unless a head is too long; pause reading if too much follows an unanswered request."""
        if self._broken:  # the start of a next request cannot be found
            self._dropped += len(data)
            if self._dropped > _MAX_DROPPED:
                self.force_close()
            return
        known = self._request_count
        super().data_received(data)
        if self._request_count > known:
            self._head_received()
        if self._request_count == self._answered:
            if self._incoming.is_eof():  # else it is the rest of a body that was refused, which aiohttp drops
                self._ahead += len(data)  # of a head that is not complete yet
            if self._ahead > MAX_HEAD:
                self._refuse(HeadTooLarge(f"The head of a request is limited to {MAX_HEAD} bytes."))
        elif self._request_count > known:
            self._ahead = 0  # at most one read of data followed the head; its kind is unknown
        elif self._request is None or self._request.content.is_eof():
            self._ahead += len(data)
            if self._ahead > _MAX_AHEAD and self.transport is not None:
                self._paused_ahead = True
                self.transport.pause_reading()

    def _head_received(self) -> None:
        """Check the last message: a request, or an error of the parser in its place."""
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            if not self._incoming.is_eof():
                self._break_body(message.exc)
            self._broken = True
            return
        self._incoming = payload
        if message.upgrade:  # not supported; the parser has dropped the data behind it
            self._messages[-1] = (message._replace(should_close=True), payload)

    def _break_body(self, exc: BaseException | None) -> None:
        """End the body that is being received with an error: neither its end nor a next request can be found."""
        self._messages.pop()
        self._request_count -= 1
        self._incoming.set_exception(BodyUnreadable(exc))
        self._incoming.feed_eof()

    @property
    def closes_after_response(self) -> bool:
        """Whether the response of the current request is the connection's last."""
        return self._broken and self._answered + 1 == self._request_count

    def _refuse(self, problem: Problem) -> None:
        """Send an error in place of a response, and accept no more requests."""
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(problems.raw_response(problem))
        self._broken = True
        self.close()
        self._linger(self.transport)

    # -------------------------------------------------------------------------------------------------- closing

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response. After a broken connection's last one :meth:`start` closes the transport, not aiohttp."""
        finished = await super().finish_response(request, resp, start_time)
        if self._broken and not self._messages:
            self._force_close = True
        return finished

    async def start(self) -> None:
        """Handle requests until the connection ends."""
        await super().start()
        if self._broken and self.transport is not None:
            self._linger(self.transport)

    def _linger(self, transport: asyncio.Transport) -> None:
        """Close the connection once its peer has closed it, or has had time to read the response.

        Closing a socket with unread data resets the connection, by which the peer may lose the response
        (RFC 9112, section 9.6).
        """
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._closing = asyncio.get_running_loop().call_later(LINGER, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Clean up after the connection."""
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)

    # ------------------------------------------------------------------------------------------------- requests

    def request_started(self, request: web.BaseRequest) -> None:
        """Record that a request is handled."""
        if not self._answered:
            self._request_started(self)
        self._request = request

    def request_handled(self) -> None:
        """Record that the response of a request is known: the next one may be received."""
        self._request = None
        self._answered += 1
        self._ahead = 0
        self.watchdog.suspended = False
        if self._paused_ahead:
            self._paused_ahead = False
            if self.transport is not None and not (self._reading_paused or self._buffer_paused):
                self.transport.resume_reading()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the response to a request that is not HTTP, or failed outside of the application."""
        if request.writer.output_size > 0:
            raise ConnectionError("The response was started and cannot become an error.")
        if status == 400:
            problem = unreadable.problem_of(exc)
            log.debug("a request could not be read", reason=problem.detail)
        else:
            log.error("a request failed", exc_info=exc)
            problem = Problem("The server failed; its log has the cause.")
        response = problems.render(problem)
        response.headers.update(HEADERS)
        response.force_close()
        return response


class PlainHandler(Handler):
    """A connection without TLS.

    Args:
        closed: called when it has ended.
    """

    def __init__(
        self,
        server: web.Server,
        watchdog: SendWatchdog,
        request_started: Callable[[Handler], None],
        closed: Callable[[], None],
    ) -> None:
        super().__init__(server, watchdog, request_started)
        self._closed = closed

    def pause_writing(self) -> None:
        """Start the watchdog: data waits to be sent."""
        super().pause_writing()
        self.watchdog.start()

    def resume_writing(self) -> None:
        """Stop the watchdog: no data waits to be sent."""
        super().resume_writing()
        self.watchdog.stop()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report the end of the connection."""
        self.watchdog.stop()
        self._closed()
        super().connection_lost(exc)


def track_requests(handle: RequestHandler) -> RequestHandler:
    """Wrap a server's request handler: notify the :class:`Handler` of the start and end of each request."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        connection: Any = request.protocol
        connection.request_started(request)
        try:
            response = await handle(request)
            if connection.closes_after_response:
                response.force_close()
            return response
        finally:
            connection.request_handled()

    return handler
