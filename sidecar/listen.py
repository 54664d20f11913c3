"""Where connections come in: a port, a Unix socket, TLS; how many, and how long they may say nothing."""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import resource
import socket
from asyncio.sslproto import SSLProtocol
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from aiohttp import web

from sidecar.auth.limits import place, read_address
from sidecar.auth.peer import is_unix
from sidecar.options import SettingsError
from sidecar.tls import Tls

_FULL = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n"
    "Retry-After: 1\r\nConnection: close\r\n\r\n{text}"
)
_FULL_TEXT = "Too many connections (--max-connections).\n"
_SHARE = 4  # one address may have this part of all connections
_PROBE_TIMEOUT = 1.0  # seconds; a server whose backlog is full has not gone


class Door:
    """Lets connections in, and counts each from the moment it is there until it is lost.

    Args:
        most: how many connections there may be.
        timeout: seconds that a new one may take, its handshake included, until the head of its first request is there.
        proxies: networks of proxies: all their callers come from one address.
    """

    def __init__(self, most: int, timeout: float, proxies: Iterable[str] = ()) -> None:
        self._most = most
        self._most_of_one = max(1, most // _SHARE)
        self._timeout = timeout
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._server: web.Server | None = None
        self._places: Counter[str] = Counter()
        self._silent: dict[object, asyncio.TimerHandle] = {}

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

    def factory(self, tls: Tls | None = None) -> Callable[[], asyncio.Protocol]:
        """Return what makes the protocol of a new connection (asyncio's protocol factory)."""
        return functools.partial(_Arrival, functools.partial(self.arrived, tls))

    def arrived(self, tls: Tls | None, transport: asyncio.Transport) -> None:
        """Let a connection in, or turn it away."""
        assert self._server is not None  # noqa: S101 - it was opened before anything listens
        if transport.get_extra_info("peername") is None:  # whoever has broken it off already is nobody's to count
            transport.abort()
            return
        where = self._place(transport)
        if self.connections >= self._most or (where and self._places[where] >= self._most_of_one):
            if tls is None:
                transport.write(_FULL.format(length=len(_FULL_TEXT), text=_FULL_TEXT).encode())
                transport.close()
            else:
                transport.abort()  # to say why takes a handshake, and that is what there is no room for
            return
        handler = self._server()
        left = functools.partial(self._left, handler, where)
        protocol = _Plain(handler, left) if tls is None else _Secured(handler, left, tls, self._timeout)
        self._places[where] += 1
        self._silent[handler] = asyncio.get_running_loop().call_later(self._timeout, transport.abort)
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
        return place(text)

    def _left(self, handler: object, where: str) -> None:
        self._forget(handler)
        self._places[where] -= 1
        if not self._places[where]:
            del self._places[where]

    def _forget(self, handler: object) -> None:
        if timer := self._silent.pop(handler, None):
            timer.cancel()

    def heard(self, request: web.Request) -> None:
        """Note that a connection has sent a request; from then on it is aiohttp that ends it when it says nothing."""
        self._forget(request.protocol)

    def close(self) -> None:
        """Forget all timers."""
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()


class _Arrival(asyncio.Protocol):
    """A connection that has just come in: from here on it is known where from.

    TLS is put on behind this, and not by asyncio's server: that one tells the application of a connection when the
    handshake is done, and never of one that fails in it: who opens connections and says nothing would not be counted.
    """

    def __init__(self, arrived: Callable[[asyncio.Transport], None]) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._arrived(cast(asyncio.Transport, transport))


class _Plain(asyncio.Protocol):
    """A connection without TLS."""

    def __init__(self, handler: web.RequestHandler, left: Callable[[], None]) -> None:
        self._handler = handler
        self._left = left

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handler.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._handler.data_received(data)

    def eof_received(self) -> None:
        self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._left()
        self._handler.connection_lost(exc)


class _Secured(SSLProtocol):
    """A connection with TLS; this, and not the handler, is told of its end also when the handshake was not done."""

    def __init__(self, handler: web.RequestHandler, left: Callable[[], None], tls: Tls, timeout: float) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            handler,
            tls.context,
            None,  # type: ignore[arg-type] # nobody waits for the handshake
            server_side=True,
            ssl_handshake_timeout=timeout,  # type: ignore[arg-type] # seconds, of any kind
        )
        self._left = left

    def connection_lost(self, exc: BaseException | None) -> None:
        self._left()
        super().connection_lost(exc)


class Port(web.BaseSite):
    """A TCP port, with TLS or without."""

    def __init__(self, runner: web.AppRunner, door: Door, host: str, port: int, tls: Tls | None) -> None:
        super().__init__(runner)
        self._door = door
        self._host = host
        self._port = port
        self._tls = tls

    @property
    def name(self) -> str:
        """The address, as a URL."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(
            self._door.factory(self._tls), self._host, self._port, backlog=self._backlog
        )
        self._host, self._port = self._server.sockets[0].getsockname()[:2]


class Socket(web.BaseSite):
    """A Unix socket; whether others than its owner reach it is a matter of its mode."""

    def __init__(self, runner: web.AppRunner, door: Door, path: Path, mode: int) -> None:
        super().__init__(runner)
        self._door = door
        self._path = path
        self._mode = mode
        self._file: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The path, as a URL."""
        return f"unix://{self._path}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(self._path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(str(self._path))
            self._path.chmod(self._mode)  # until it listens nobody comes in, whatever the mode was
            self._file = _file(self._path)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._door.factory(), sock=listening, backlog=self._backlog
            )
        except BaseException:
            listening.close()
            raise

    async def stop(self) -> None:
        """Listen no more, and take the socket away."""
        await super().stop()
        if self._file is not None and _file(self._path) == self._file:  # or it is another server's
            self._path.unlink(missing_ok=True)


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: Path) -> None:
    """Take away a socket that a server has left behind which was killed.

    Raises:
        SettingsError: somebody listens on it, or nobody can tell.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as exc:  # a server too that is too busy to answer; nobody else's socket is taken away
            raise SettingsError(f"--socket {path}: it is there, and cannot be asked who listens: {exc}.") from None
    raise SettingsError(f"--socket {path}: another server listens there.")


def allow_many_files() -> None:
    """Let this process have as many open files as it may: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
