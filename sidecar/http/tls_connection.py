"""A connection with TLS."""

from __future__ import annotations

import asyncio
import re
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import cast

from sidecar.domain.errors import InvalidRequest
from sidecar.http import problems
from sidecar.http.connection import LINGER, Handler
from sidecar.http.tls import Tls

_PLAIN_HTTP = re.compile(rb"[A-Z]{3,7} [/*h]")  # how a request in plain HTTP starts; TLS starts with the byte 22
_WRITE_BUFFER = 64 * 1024  # bytes, beside the buffer of TLS itself


class TlsConnection(SSLProtocol):
    """TLS between the socket and a handler; notified of the connection's end also if the handshake failed.

    Args:
        handler: handles the requests.
        closed: called when the connection has ended.
        tls: certificate and key.
        handshake_timeout: seconds.
    """

    def __init__(self, handler: Handler, closed: Callable[[], None], tls: Tls, handshake_timeout: float) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            handler,
            tls.context,
            None,  # type: ignore[arg-type] # nothing waits for the handshake
            server_side=True,
            ssl_handshake_timeout=handshake_timeout,  # type: ignore[arg-type] # typeshed: int
        )
        self._closed = closed
        self._watchdog = handler.watchdog
        self._started = False
        self._closing: asyncio.TimerHandle | None = None
        self._set_write_buffer_limits(high=_WRITE_BUFFER)  # type: ignore[attr-defined] # its transport calls it too

    def pause_writing(self) -> None:
        """Start the watchdog: data waits to be sent."""
        super().pause_writing()
        self._watchdog.start()

    def resume_writing(self) -> None:
        """Stop the watchdog: no data waits to be sent."""
        super().resume_writing()
        self._watchdog.stop()

    def buffer_updated(self, nbytes: int) -> None:
        """Receive data; answer plain HTTP with an error, where TLS would only close the connection."""
        if self._closing is not None:
            return  # the rest of a request in plain HTTP
        started, self._started = self._started, True
        if not started and _PLAIN_HTTP.match(self._ssl_buffer_view[:nbytes]):  # type: ignore[attr-defined]
            transport = cast(asyncio.Transport, self._transport)
            problem = InvalidRequest("This port speaks HTTPS, and the client plain HTTP: use https://.")
            transport.write(problems.raw_response(problem))
            transport.write_eof()
            self._closing = asyncio.get_running_loop().call_later(LINGER, transport.close)
            return
        super().buffer_updated(nbytes)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Report the end of the connection."""
        if self._closing is not None:
            self._closing.cancel()
        self._watchdog.stop()
        self._closed()
        super().connection_lost(exc)
