"""Limit connections: their number, the time to their first request, and the data that waits to be sent to them."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from typing import cast

from aiohttp import web

from sidecar.auth.peer import is_unix
from sidecar.domain.errors import Overloaded
from sidecar.http import problems
from sidecar.http.connection import Handler, PlainHandler
from sidecar.http.send_watchdog import PeerTimeouts, SendWatchdog
from sidecar.http.tls import Tls
from sidecar.http.tls_connection import TlsConnection
from sidecar.runtime.clock import Timer
from sidecar.runtime.rate_limiter import client_key, read_address

_FULL = Overloaded("Too many connections (--max-connections).")
_SHARE = 4  # one address may have this fraction of the connections, and of the unsent bytes
_PERIOD = 1.0  # seconds between checks of the unsent bytes
_READ_SIZE = 64 * 1024  # bytes read from the kernel at once


class ConnectionLimiter:
    """Accept or refuse connections, and count each until it is lost.

    Args:
        max_connections: limit of connections.
        timeouts: of the peers.
        max_unsent: bytes that may wait to be sent on all connections.
        proxies: networks of proxies; each of their addresses stands for many clients.
    """

    def __init__(
        self, max_connections: int, timeouts: PeerTimeouts, max_unsent: int, proxies: Iterable[str] = ()
    ) -> None:
        self.max_connections = max_connections
        self._timeouts = timeouts
        self._max_unsent = max_unsent
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._server: web.Server | None = None
        self._counts: Counter[str] = Counter()
        self._keys: dict[SendWatchdog, str] = {}
        self._awaiting_request: dict[SendWatchdog, Timer] = {}
        self._timer: Timer | None = None

    @property
    def connections(self) -> int:
        """Open connections."""
        return self._counts.total()

    @property
    def awaiting_request(self) -> int:
        """Open connections without a request so far."""
        return len(self._awaiting_request)

    def start(self, server: web.Server) -> None:
        """Accept connections for a server."""
        self._server = server
        self._timer = self._timeouts.clock.call_later(_PERIOD, self._limit_unsent)

    def factory(self, tls: Tls | None = None) -> Callable[[], asyncio.Protocol]:
        """Return the protocol factory (asyncio) of a listener."""
        return functools.partial(_NewConnection, functools.partial(self.accept, tls))

    def accept(self, tls: Tls | None, transport: asyncio.Transport) -> None:
        """Accept a connection, or refuse it."""
        assert self._server is not None  # noqa: S101 - start() comes before any listener
        if transport.get_extra_info("peername") is None:  # lost already: it has no address to be counted by
            transport.abort()
            return
        key = self._client_key(transport)
        if self.connections >= self.max_connections or (
            key and self._counts[key] >= max(1, self.max_connections // _SHARE)
        ):
            _refuse(transport, tls)
            return
        _limit_buffers(transport)
        watchdog = SendWatchdog(transport, self._timeouts)
        closed = functools.partial(self._release, watchdog, key)
        protocol: asyncio.Protocol
        if tls is None:
            protocol = PlainHandler(self._server, watchdog, self._request_started, closed)
        else:
            handler = Handler(self._server, watchdog, self._request_started)
            protocol = TlsConnection(handler, closed, tls, self._timeouts.head)  # type: ignore[assignment] # typeshed: a BufferedProtocol
        self._counts[key] += 1
        self._keys[watchdog] = key
        self._awaiting_request[watchdog] = self._timeouts.clock.call_later(self._timeouts.head, transport.abort)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _client_key(self, transport: asyncio.BaseTransport) -> str:
        """Return the key by which a client's connections are counted; empty if many clients share the address.

        These are proxies, and loopback, from where port-forwards, tunnels and the proxy of a service mesh connect.
        """
        if is_unix(transport):
            return ""
        text = str(transport.get_extra_info("peername")[0])
        address = read_address(text)
        if address and (address.is_loopback or any(address in network for network in self._proxies)):
            return ""
        return client_key(text)

    def _release(self, watchdog: SendWatchdog, key: str) -> None:
        self._cancel_timer(watchdog)
        del self._keys[watchdog]
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]

    def _cancel_timer(self, watchdog: SendWatchdog) -> None:
        if timer := self._awaiting_request.pop(watchdog, None):
            timer.cancel()

    def _request_started(self, handler: Handler) -> None:
        """Cancel the timeout of the first request; aiohttp ends the connection when it is idle later."""
        self._cancel_timer(handler.watchdog)

    def _limit_unsent(self) -> None:
        """Abort connections, those with most unsent bytes first, while there are too many unsent bytes."""
        sizes = sorted(((each.unsent, each) for each in self._keys), key=lambda pair: pair[0], reverse=True)
        total = sum(size for size, _ in sizes)
        by_client: Counter[str] = Counter()
        for size, watchdog in sizes:
            if not size:
                break
            by_client[self._keys[watchdog]] += size
        for size, watchdog in sizes:
            key = self._keys[watchdog]
            over_share = key and by_client[key] > self._max_unsent // _SHARE
            if not size or not (over_share or total > self._max_unsent):
                continue
            total -= size
            by_client[key] -= size
            watchdog.abort("too much data waits to be read")
        self._timer = self._timeouts.clock.call_later(_PERIOD, self._limit_unsent)

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._awaiting_request.values():
            timer.cancel()
        self._awaiting_request.clear()
        if self._timer is not None:
            self._timer.cancel()


class _NewConnection(asyncio.Protocol):
    """The protocol of a connection until it is accepted, when its address is known.

    TLS is added afterwards, not by asyncio's server, which does not report a connection with a failed handshake:
    silent connections would not be counted.
    """

    def __init__(self, accept: Callable[[asyncio.Transport], None]) -> None:
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._accept(cast(asyncio.Transport, transport))


def _refuse(transport: asyncio.Transport, tls: Tls | None) -> None:
    if tls is None:
        transport.write(problems.raw_response(_FULL))
        transport.close()
    else:
        transport.abort()  # a response would need a handshake, which costs as much as the connection


def _limit_buffers(transport: asyncio.Transport) -> None:
    """Limit the bytes per read, and have the transport report at once that its peer does not read."""
    transport.set_write_buffer_limits(high=0)
    if hasattr(transport, "max_size"):
        transport.max_size = _READ_SIZE
