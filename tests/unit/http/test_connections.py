"""Connection limits: in total, for each address, and of unsent bytes."""

from __future__ import annotations

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from sidecar.http.connections import ConnectionLimiter
from sidecar.http.send_watchdog import PeerTimeouts
from sidecar.runtime.clock import LoopClock


class Transport(asyncio.Transport):
    """A connection from an address; it records what happens to it."""

    def __init__(self, address: str, family: int = socket.AF_INET) -> None:
        self._address = address
        self._socket = SimpleNamespace(family=family, setsockopt=lambda *_: None)
        self.sent = b""
        self.unsent = 0
        self.protocol: Any = None
        self.aborted = asyncio.Event()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        unix = self._socket.family == socket.AF_UNIX
        peer = (self._address, 1) if self._address else None
        return {"peername": "" if unix else peer, "socket": self._socket}.get(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: Any) -> None:
        self.sent += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def close(self) -> None:
        return

    def abort(self) -> None:
        self.aborted.set()

    @property
    def accepted(self) -> bool:
        assert (self.protocol is None) == (b" 503 " in self.sent)
        return self.protocol is not None


async def _handle(request: web.BaseRequest) -> web.Response:
    return web.Response()


def new_limiter(max_connections: int, timeout: float = 60, proxies: tuple[str, ...] = ()) -> ConnectionLimiter:
    found = ConnectionLimiter(max_connections, PeerTimeouts(LoopClock(), timeout, 60), 2**20, proxies)
    found.start(web.Server(_handle))
    return found


def connect(to: ConnectionLimiter, address: str, family: int = socket.AF_INET) -> Transport:
    transport = Transport(address, family)
    initial: Any = to.factory()()
    initial.connection_made(transport)
    return transport


async def test_address_may_have_a_quarter_of_the_connections() -> None:
    limiter = new_limiter(16)
    first = [connect(limiter, "192.0.2.1") for _ in range(4)]
    assert all(each.accepted for each in first)
    assert not connect(limiter, "192.0.2.1").accepted
    assert not connect(limiter, "::ffff:192.0.2.1").accepted
    assert connect(limiter, "192.0.2.2").accepted
    first[0].protocol.connection_lost(None)
    assert connect(limiter, "192.0.2.1").accepted
    assert not connect(limiter, "192.0.2.1").accepted


async def test_connection_that_is_lost_before_it_is_accepted() -> None:
    """The kernel also passes on connections that are already closed; their address is unknown."""
    limiter = new_limiter(16)
    lost = connect(limiter, "")
    assert lost.aborted.is_set()
    assert (limiter.connections, limiter.awaiting_request) == (0, 0)


async def test_ipv6_addresses_of_a_network_count_together() -> None:
    limiter = new_limiter(16)
    assert all(connect(limiter, f"2001:db8::{n}").accepted for n in range(4))
    assert not connect(limiter, "2001:db8::ffff:1").accepted
    assert connect(limiter, "2001:db8:0:1::1").accepted


@pytest.mark.parametrize(
    ("address", "family"),
    [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("10.0.0.7", socket.AF_INET), ("", socket.AF_UNIX)],
)
async def test_addresses_of_many_clients_have_no_share(address: str, family: int) -> None:
    """Port-forwards, a trusted proxy and the Unix socket may use all connections, and no more."""
    limiter = new_limiter(16, proxies=("10.0.0.0/8",))
    connections = [connect(limiter, address, family) for _ in range(16)]
    assert all(each.accepted for each in connections)
    assert not connect(limiter, address, family).accepted
    assert not connect(limiter, "192.0.2.1").accepted
    connections[0].protocol.connection_lost(None)
    assert connect(limiter, "192.0.2.1").accepted


async def test_each_address_may_have_one_connection() -> None:
    limiter = new_limiter(2)
    assert [connect(limiter, "192.0.2.1").accepted for _ in range(2)] == [True, False]
    assert connect(limiter, "192.0.2.2").accepted


async def test_idle_connection_is_closed_and_forgotten() -> None:
    limiter = new_limiter(16, timeout=0.01)
    transport = connect(limiter, "192.0.2.1")
    await asyncio.wait_for(transport.aborted.wait(), 10)
    transport.protocol.connection_lost(None)
    assert (limiter.connections, limiter.awaiting_request) == (0, 0)


async def test_lost_connection_is_forgotten_at_once() -> None:
    """Otherwise its memory would be kept until the timeout for its first request."""
    limiter = new_limiter(16)
    transport = connect(limiter, "192.0.2.1")
    assert (limiter.connections, limiter.awaiting_request) == (1, 1)
    transport.protocol.connection_lost(None)
    assert (limiter.connections, limiter.awaiting_request) == (0, 0)


async def test_unsent_bytes_are_limited_in_total() -> None:
    """The connections with the most unsent bytes are closed until the limit is met; others continue."""
    limiter = new_limiter(16, proxies=("192.0.2.0/24",))
    connections = [connect(limiter, f"192.0.2.{n}") for n in range(4)]
    for number, each in enumerate(connections):
        each.unsent = number * 2**18 + 2**17
    limiter._limit_unsent()
    assert [each.aborted.is_set() for each in connections] == [False, False, True, True]
    limiter.close()


async def test_unsent_bytes_are_limited_for_each_address() -> None:
    limiter = new_limiter(16)
    first, second, other = (connect(limiter, address) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"))
    first.unsent, second.unsent, other.unsent = 2**18, 2**17, 2**17
    limiter._limit_unsent()
    assert [each.aborted.is_set() for each in (first, second, other)] == [True, False, False]
    limiter.close()
