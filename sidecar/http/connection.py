"""One connection: how much it may send ahead of its turn, and how long it may leave answers unread.

aiohttp bounds a body that a handler reads, and neither of these. Its handler of a connection is extended here; which
of its members that takes is held by ``tests/unit/test_dependencies.py``.
"""

from __future__ import annotations

import asyncio
import re
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable
from typing import Any, cast

import structlog
from aiohttp import EMPTY_PAYLOAD, StreamReader, web
from aiohttp.web_protocol import _ErrInfo

from sidecar.domain.errors import HeadTooLarge, InvalidRequest, Problem
from sidecar.http import problems, unreadable
from sidecar.http.headers import HEADERS
from sidecar.http.tls import Tls
from sidecar.http.unreadable import HEAD, LINE, BodyUnreadable
from sidecar.http.unsent import Patience, Unsent

log = structlog.get_logger("server")

_AHEAD = 64 * 1024  # bytes that may follow a request before it is answered
_READ = 64 * 1024  # bytes that are taken from the kernel at once
_BODY = 32 * 1024  # bytes of a body at which aiohttp stops reading until the handler takes some; it takes twice that
_WRITE = 64 * 1024  # bytes that may wait behind a TLS connection's own buffer
_METHOD = re.compile(rb"[A-Z]{3,7} [/*h]")  # how plain HTTP begins; TLS begins with 22
_LINGER = 2.0  # seconds in which the peer may read a last answer, while what it still sends is dropped
_DROPPED = 4 * 1024 * 1024  # bytes that are dropped meanwhile, at most
_KEEP_ALIVE = 75.0  # seconds; longer than any usual proxy keeps a connection that is not used

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Handler(web.RequestHandler):
    """A connection, as aiohttp handles it, within bounds.

    Args:
        server: gets the requests.
        unsent: is told when something waits to be sent.
        heard: called when the first request is there.
    """

    def __init__(self, server: web.Server, unsent: Unsent, heard: Callable[[Handler], None]) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_KEEP_ALIVE,
            access_log=None,  # type: ignore[arg-type] # which is how it is switched off
            max_line_size=LINE,
            max_field_size=LINE,
            max_headers=unreadable.HEADERS,
            read_bufsize=_BODY,
            auto_decompress=False,  # a megabyte that unpacks to a gigabyte would be unpacked here, in the loop
        )
        self.unsent = unsent
        self._heard = heard
        self._request: web.BaseRequest | None = None
        self._answered = 0
        self._ahead = 0
        self._held = False
        self._incoming: StreamReader = EMPTY_PAYLOAD
        self._broken = False
        self._dropped = 0
        self._closing: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------- what comes in

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is too much: of a head, or ahead of the answer to an earlier request."""
        if self._broken:  # where a next request would begin is not known
            self._dropped += len(data)
            if self._dropped > _DROPPED:
                self.force_close()
            return
        known = self._request_count
        super().data_received(data)
        if self._request_count > known:
            self._arrived()
        if self._request_count == self._answered:  # no head is complete yet
            self._ahead += len(data)
            if self._ahead > HEAD:
                self._refuse(HeadTooLarge(f"The head of a request may have {HEAD} bytes here."))
        elif self._request_count > known:
            self._ahead = 0  # of what came with the head's end, at most one reading, it is not known what it is
        elif self._request is None or self._request.content.is_eof():
            self._ahead += len(data)
            if self._ahead > _AHEAD and self.transport is not None:
                self._held = True
                self.transport.pause_reading()

    def _arrived(self) -> None:
        """Look at the last one that has arrived: a request, or the parser's error in place of one."""
        message, payload = self._messages[-1]
        if isinstance(message, _ErrInfo):
            if not self._incoming.is_eof():
                self._break_off(message.exc)
            self._broken = True
            return
        self._incoming = payload
        if message.upgrade:  # there is none here; what came behind it the parser has dropped
            self._messages[-1] = (message._replace(should_close=True), payload)

    def _break_off(self, exc: BaseException | None) -> None:
        """End the body that is being read with an error: it has no end that could be found, nor has a next request."""
        self._messages.pop()
        self._request_count -= 1
        self._incoming.set_exception(BodyUnreadable(exc))
        self._incoming.feed_eof()

    @property
    def ends(self) -> bool:
        """Whether the connection ends with the answer to the request that is worked on."""
        return self._broken and self._answered + 1 == self._request_count

    def _refuse(self, problem: Problem) -> None:
        """Answer with an error in place of a request, and take no more requests."""
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(raw_answer(problem))
        self._broken = True
        self.close()
        self._linger(self.transport)

    # ----------------------------------------------------------------------------------------------------- end

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; after the last one of a broken connection, ``start`` closes the transport, not aiohttp."""
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
        """Close the connection once the peer has closed it, or has had the time to read the answer.

        A socket that is closed with unread data resets the connection, and the peer may lose the answer by it
        (RFC 9112, section 9.6).
        """
        if transport.can_write_eof():
            transport.write_eof()
        transport.resume_reading()
        self._closing = asyncio.get_running_loop().call_later(_LINGER, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note the end of the connection."""
        if self._closing is not None:
            self._closing.cancel()
        super().connection_lost(exc)

    def begin(self, request: web.BaseRequest) -> None:
        """Note that a request is worked on."""
        if not self._answered:
            self._heard(self)
        self._request = request

    def done(self) -> None:
        """Note that its answer is known: the next one may come."""
        self._request = None
        self._answered += 1
        self._ahead = 0
        self.unsent.lenient = False
        if self._held:
            self._held = False
            if self.transport is not None and not (self._reading_paused or self._buffer_paused):
                self.transport.resume_reading()

    # -------------------------------------------------------------------------------------------------- errors

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, and what has failed beside the application, as every other error is answered."""
        if request.writer.output_size > 0:
            raise ConnectionError("The answer has begun, and cannot become an error.")
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


class Plain(Handler):
    """A connection without TLS.

    Args:
        left: called when it has ended.
    """

    def __init__(
        self, server: web.Server, unsent: Unsent, heard: Callable[[Handler], None], left: Callable[[], None]
    ) -> None:
        super().__init__(server, unsent, heard)
        self._left = left

    def pause_writing(self) -> None:
        """Note that something waits to be sent."""
        super().pause_writing()
        self.unsent.begin()

    def resume_writing(self) -> None:
        """Note that nothing waits to be sent."""
        super().resume_writing()
        self.unsent.end()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note its end."""
        self.unsent.end()
        self._left()
        super().connection_lost(exc)


class Secured(SSLProtocol):
    """A connection with TLS; this, and not the handler, is told of its end also when the handshake was not done."""

    def __init__(self, handler: Handler, left: Callable[[], None], tls: Tls, patience: Patience) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            handler,
            tls.context,
            None,  # type: ignore[arg-type] # nothing waits for the handshake
            server_side=True,
            ssl_handshake_timeout=patience.head,  # type: ignore[arg-type] # seconds, of any kind
        )
        self._left = left
        self._unsent = handler.unsent
        self._begun = False
        self._closing: asyncio.TimerHandle | None = None
        self._set_write_buffer_limits(high=_WRITE)  # type: ignore[attr-defined] # which its transport calls too

    def pause_writing(self) -> None:
        """Note that something waits to be sent."""
        super().pause_writing()
        self._unsent.begin()

    def resume_writing(self) -> None:
        """Note that nothing waits to be sent."""
        super().resume_writing()
        self._unsent.end()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come, unless it is plain HTTP: then say so, where TLS would only close the connection."""
        if self._closing is not None:
            return  # the rest of a request in plain HTTP
        begun, self._begun = self._begun, True
        if not begun and _METHOD.match(self._ssl_buffer_view[:nbytes]):  # type: ignore[attr-defined]
            transport = cast(asyncio.Transport, self._transport)
            transport.write(
                raw_answer(InvalidRequest("This port speaks HTTPS, and the client plain HTTP: use https://."))
            )
            transport.write_eof()
            self._closing = asyncio.get_running_loop().call_later(_LINGER, transport.close)
            return
        super().buffer_updated(nbytes)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Note its end."""
        if self._closing is not None:
            self._closing.cancel()
        self._unsent.end()
        self._left()
        super().connection_lost(exc)


def bounded(transport: asyncio.Transport) -> None:
    """Have a socket's transport read little at once, and say at once when its peer does not read."""
    transport.set_write_buffer_limits(high=0)
    if hasattr(transport, "max_size"):
        transport.max_size = _READ


def counted(handle: Handle) -> Handle:
    """Return a handler of all requests of a server that tells each request's connection when it begins and is done."""

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        connection: Any = request.protocol
        connection.begin(request)
        try:
            response = await handle(request)
            if connection.ends:
                response.force_close()
            return response
        finally:
            connection.done()

    return handler


def raw_answer(problem: Problem) -> bytes:
    """Return an error's answer as bytes, for where there is no request to answer."""
    body = problems.encode(problem)
    headers = {
        "Content-Type": problems.CONTENT_TYPE,
        "Content-Length": str(len(body)),
        "Connection": "close",
        **HEADERS,
        **problem.headers,
    }
    lines = [f"HTTP/1.1 {problem.status} {problem.title}", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
