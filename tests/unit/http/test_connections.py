"""The door: whose connections are counted, with whose, and until when."""

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
    """A connection from some address; what becomes of it is noted."""

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
    def let_in(self) -> bool:
        assert (self.protocol is None) == (b" 503 " in self.sent)
        return self.protocol is not None


async def _handle(request: web.BaseRequest) -> web.Response:
    return web.Response()


def door(most: int, timeout: float = 60, proxies: tuple[str, ...] = ()) -> ConnectionLimiter:
    found = ConnectionLimiter(most, PeerTimeouts(LoopClock(), timeout, 60), 2**20, proxies)
    found.start(web.Server(_handle))
    return found


def come(to: ConnectionLimiter, address: str, family: int = socket.AF_INET) -> Transport:
    transport = Transport(address, family)
    arrival: Any = to.factory()()
    arrival.connection_made(transport)
    return transport


async def test_an_address_has_a_quarter() -> None:
    mine = door(16)
    first = [come(mine, "192.0.2.1") for _ in range(4)]
    assert all(each.let_in for each in first)
    assert not come(mine, "192.0.2.1").let_in
    assert not come(mine, "::ffff:192.0.2.1").let_in
    assert come(mine, "192.0.2.2").let_in
    first[0].protocol.connection_lost(None)
    assert come(mine, "192.0.2.1").let_in
    assert not come(mine, "192.0.2.1").let_in


async def test_who_has_gone_before_anybody_looked() -> None:
    """The kernel hands connections over that were broken off meanwhile, and cannot say any more whose they were."""
    mine = door(16)
    gone = come(mine, "")
    assert gone.aborted.is_set()
    assert (mine.connections, mine.awaiting_request) == (0, 0)


async def test_an_address_of_ipv6_is_its_network() -> None:
    mine = door(16)
    assert all(come(mine, f"2001:db8::{n}").let_in for n in range(4))
    assert not come(mine, "2001:db8::ffff:1").let_in
    assert come(mine, "2001:db8:0:1::1").let_in


@pytest.mark.parametrize(
    ("address", "family"),
    [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("10.0.0.7", socket.AF_INET), ("", socket.AF_UNIX)],
)
async def test_where_many_come_from(address: str, family: int) -> None:
    """Port-forwards, a trusted proxy, the Unix socket: they have all connections that there are, and no more."""
    mine = door(16, proxies=("10.0.0.0/8",))
    connections = [come(mine, address, family) for _ in range(16)]
    assert all(each.let_in for each in connections)
    assert not come(mine, address, family).let_in
    assert not come(mine, "192.0.2.1").let_in
    connections[0].protocol.connection_lost(None)
    assert come(mine, "192.0.2.1").let_in


async def test_there_is_room_for_one_of_each_address() -> None:
    mine = door(2)
    assert [come(mine, "192.0.2.1").let_in for _ in range(2)] == [True, False]
    assert come(mine, "192.0.2.2").let_in


async def test_who_says_nothing_is_cut_off_and_forgotten() -> None:
    mine = door(16, timeout=0.01)
    transport = come(mine, "192.0.2.1")
    await asyncio.wait_for(transport.aborted.wait(), 10)
    transport.protocol.connection_lost(None)
    assert (mine.connections, mine.awaiting_request) == (0, 0)


async def test_who_goes_is_forgotten_at_once() -> None:
    """Not when the time for a first request is over: until then it would all be kept."""
    mine = door(16)
    transport = come(mine, "192.0.2.1")
    assert (mine.connections, mine.awaiting_request) == (1, 1)
    transport.protocol.connection_lost(None)
    assert (mine.connections, mine.awaiting_request) == (0, 0)


async def test_what_waits_to_be_sent_is_bounded_in_all() -> None:
    """Cut off are those that wait for most, until there is room again; all others go on."""
    mine = door(16, proxies=("192.0.2.0/24",))
    connections = [come(mine, f"192.0.2.{n}") for n in range(4)]
    for number, each in enumerate(connections):
        each.unsent = number * 2**18 + 2**17
    mine._limit_unsent()
    assert [each.aborted.is_set() for each in connections] == [False, False, True, True]
    mine.close()


async def test_what_waits_to_be_sent_is_bounded_for_an_address() -> None:
    mine = door(16)
    first, second, other = (come(mine, address) for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"))
    first.unsent, second.unsent, other.unsent = 2**18, 2**17, 2**17
    mine._limit_unsent()
    assert [each.aborted.is_set() for each in (first, second, other)] == [True, False, False]
    mine.close()
