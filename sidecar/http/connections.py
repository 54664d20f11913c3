"""Where connections come in: a port, TLS; how many, and how long they may say nothing."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections import Counter
from collections.abc import Callable, Iterable
from typing import cast

from aiohttp import web

from sidecar.auth.peer import is_unix
from sidecar.config.values import SettingsError
from sidecar.domain.errors import Overloaded
from sidecar.http.acceptor import Acceptor
from sidecar.http.connection import Handler, Plain, Secured, bounded, raw_answer
from sidecar.http.tls import Tls
from sidecar.http.unsent import Patience, Unsent
from sidecar.runtime.clock import Timer
from sidecar.runtime.rate_limiter import client_key, read_address

_FULL = Overloaded("Too many connections (--max-connections).")
_SHARE = 4  # one address may have this part of all connections, and of all bytes that wait to be sent
_LOOK = 1.0  # seconds from one look at what waits to be sent to the next


class ConnectionLimiter:
    """Lets connections in, and counts each from the moment it is there until it is lost.

    Args:
        most: how many connections there may be.
        patience: how long their peers may take for what.
        unsent: how many bytes may wait to be sent to all of them.
        proxies: networks of proxies: all their callers come from one address.
    """

    def __init__(self, most: int, patience: Patience, unsent: int, proxies: Iterable[str] = ()) -> None:
        self.most = most
        self._patience = patience
        self._most_unsent = unsent
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._server: web.Server | None = None
        self._places: Counter[str] = Counter()
        self._silent: dict[object, Timer] = {}
        self._unsent: dict[Unsent, str] = {}
        self._relief: Timer | None = None

    @property
    def connections(self) -> int:
        """How many there are."""
        return self._places.total()

    @property
    def silent(self) -> int:
        """How many of them have not sent a request yet."""
        return len(self._silent)

    def open(self, server: web.Server) -> None:
        """Let connections in, to this server."""
        self._server = server
        self._relief = self._patience.clock.call_later(_LOOK, self._relieve)

    def factory(self, tls: Tls | None = None) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of a new connection (asyncio's protocol factory)."""
        return functools.partial(_Arrival, functools.partial(self.arrived, tls))

    def arrived(self, tls: Tls | None, transport: asyncio.Transport) -> None:
        """Let a connection in, or turn it away."""
        assert self._server is not None  # noqa: S101 - it was opened before anything listens
        if transport.get_extra_info("peername") is None:  # broken off already: there is no address to count it with
            transport.abort()
            return
        where = self._place(transport)
        if self.connections >= self.most or (where and self._places[where] >= max(1, self.most // _SHARE)):
            if tls is None:
                transport.write(raw_answer(_FULL))
                transport.close()
            else:
                transport.abort()  # to say why takes a handshake, and that is what there is no room for
            return
        bounded(transport)
        unsent = Unsent(transport, self._patience)
        left = functools.partial(self._left, unsent, where)
        protocol: asyncio.Protocol
        if tls is None:
            protocol = Plain(self._server, unsent, self._heard, left)
        else:
            protocol = Secured(Handler(self._server, unsent, self._heard), left, tls, self._patience)  # type: ignore[assignment] # typeshed: a BufferedProtocol
        self._places[where] += 1
        self._unsent[unsent] = where
        self._silent[unsent] = self._patience.clock.call_later(self._patience.head, transport.abort)
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _place(self, transport: asyncio.BaseTransport) -> str:
        """Return what a connection is counted with; nothing when many callers come from there.

        Those are the proxies, and this machine: port-forwards, tunnels and a mesh's proxy come from loopback.
        """
        if is_unix(transport):
            return ""
        text = str(transport.get_extra_info("peername")[0])
        address = read_address(text)
        if address and (address.is_loopback or any(address in network for network in self._proxies)):
            return ""
        return client_key(text)

    def _left(self, unsent: Unsent, where: str) -> None:
        self._forget(unsent)
        del self._unsent[unsent]
        self._places[where] -= 1
        if not self._places[where]:
            del self._places[where]

    def _forget(self, unsent: Unsent) -> None:
        if timer := self._silent.pop(unsent, None):
            timer.cancel()

    def _heard(self, handler: Handler) -> None:
        """Note that a connection has sent a request; from then on it is aiohttp that ends it when it says nothing."""
        self._forget(handler.unsent)

    def _relieve(self) -> None:
        """Cut connections off, those first that wait for most, while too many bytes wait to be sent."""
        sizes = sorted(((unsent.size, unsent) for unsent in self._unsent), key=lambda each: each[0], reverse=True)
        total = sum(size for size, _ in sizes)
        places: Counter[str] = Counter()
        for size, unsent in sizes:
            if not size:
                break
            places[self._unsent[unsent]] += size
        for size, unsent in sizes:
            where = self._unsent[unsent]
            too_much = where and places[where] > self._most_unsent // _SHARE
            if not size or not (too_much or total > self._most_unsent):
                continue
            total -= size
            places[where] -= size
            unsent.cut_off("too much waits to be read")
        self._relief = self._patience.clock.call_later(_LOOK, self._relieve)

    def close(self) -> None:
        """Forget all timers."""
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()
        if self._relief is not None:
            self._relief.cancel()


class _Arrival(asyncio.Protocol):
    """A connection that has just come in: from here on it is known where from.

    TLS is put on behind this, and not by asyncio's server: that one says nothing of a connection that fails in its
    handshake, and connections that are opened and say nothing would not be counted.
    """

    def __init__(self, arrived: Callable[[asyncio.Transport], None]) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrived(cast(asyncio.Transport, transport))


class Site(web.BaseSite):
    """What both kinds of sites have in common."""

    _acceptor: Acceptor | None = None

    async def stop(self) -> None:
        """Listen no more."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().stop()


class Port(Site):
    """A TCP port, with TLS or without.

    Args:
        runner: of the application.
        door: lets connections in.
        address: host and port; port 0 takes a free one.
        tls: None for plain HTTP.
        option: which option names the port, for errors.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        door: ConnectionLimiter,
        address: tuple[str, int],
        tls: Tls | None,
        option: str = "--port",
    ) -> None:
        super().__init__(runner)
        self._door = door
        self._host, self._port = address
        self._tls = tls
        self._option = option

    @property
    def name(self) -> str:
        """The address, as a URL."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the address cannot be listened on.
        """
        await super().start()
        loop = asyncio.get_running_loop()
        try:
            # It binds, by asyncio's rules for names with several addresses; this server accepts by itself.
            bound = await loop.create_server(asyncio.Protocol, self._host, self._port, start_serving=False)
        except OSError as exc:
            raise SettingsError(
                f"{self._option}: cannot listen on {self._host} port {self._port}: {exc.strerror or exc}. "
                f"Choose another {self._option}, or another --host."
            ) from None
        sockets = [each.dup() for each in bound.sockets]
        bound.close()
        self._acceptor = Acceptor(sockets, self._door.factory(self._tls), self._backlog)
        self._host, self._port = sockets[0].getsockname()[:2]
