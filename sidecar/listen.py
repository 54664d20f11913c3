"""Where connections come in: a port, a Unix socket, TLS; how many, and how long they may say nothing."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
from pathlib import Path

import structlog
from aiohttp import web

from sidecar.options import SettingsError
from sidecar.watch import Watch

log = structlog.get_logger("listen")

_FULL = (
    "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n"
    "Retry-After: 1\r\nConnection: close\r\n\r\n{text}"
)
_FULL_TEXT = "Too many connections (--max-connections).\n"


class Door:
    """Makes what handles a connection.

    Args:
        most: how many connections there may be.
        timeout: seconds that a new one may take to send the head of its first request.
    """

    def __init__(self, most: int, timeout: float) -> None:
        self._most = most
        self._timeout = timeout
        self._server: web.Server | None = None
        self._silent: dict[object, asyncio.TimerHandle] = {}

    def open(self, server: web.Server) -> None:
        """Let connections in, to this server."""
        self._server = server

    def __call__(self) -> asyncio.Protocol:
        """Return the protocol of a new connection (asyncio's protocol factory)."""
        assert self._server is not None  # noqa: S101 - it was opened before anything listens
        if len(self._server.connections) >= self._most:
            return _Full()
        handler = self._server()
        loop = asyncio.get_running_loop()
        self._silent[handler] = loop.call_later(self._timeout, self._expire, handler)
        return handler

    def heard(self, request: web.Request) -> None:
        """Note that a connection has sent a request; from then on it is aiohttp that ends it when it says nothing."""
        if timer := self._silent.pop(request.protocol, None):
            timer.cancel()

    def _expire(self, handler: web.RequestHandler) -> None:
        self._silent.pop(handler, None)
        if handler.transport is not None:
            handler.transport.abort()

    def close(self) -> None:
        """Forget all timers."""
        for timer in self._silent.values():
            timer.cancel()
        self._silent.clear()


class _Full(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - a stream's
        transport.write(_FULL.format(length=len(_FULL_TEXT), text=_FULL_TEXT).encode())
        transport.close()


class Port(web.BaseSite):
    """A TCP port, with TLS or without."""

    def __init__(self, runner: web.AppRunner, door: Door, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__(runner, ssl_context=tls)
        self._door = door
        self._host = host
        self._port = port

    @property
    def name(self) -> str:
        """The address, as a URL."""
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self._server = await asyncio.get_running_loop().create_server(
            self._door, self._host, self._port, ssl=self._ssl_context, backlog=self._backlog
        )
        self._host, self._port = self._server.sockets[0].getsockname()[:2]


class Socket(web.BaseSite):
    """A Unix socket; whether others than its owner reach it is a matter of its mode."""

    def __init__(self, runner: web.AppRunner, door: Door, path: Path, mode: int) -> None:
        super().__init__(runner)
        self._door = door
        self._path = path
        self._mode = mode

    @property
    def name(self) -> str:
        """The path, as a URL."""
        return f"unix://{self._path}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_stale(self._path)
        # From its first moment nobody may come in who may not later.
        before = os.umask(0o777 & ~self._mode)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._door, str(self._path), backlog=self._backlog
            )
        finally:
            os.umask(before)

    async def stop(self) -> None:
        """Listen no more, and take the socket away."""
        await super().stop()
        if self._server is not None:  # or it is another server's
            self._path.unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Take away a socket that a server has left behind which was killed.

    Raises:
        SettingsError: somebody listens on it.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            path.unlink(missing_ok=True)
            return
    raise SettingsError(f"--socket {path}: another server listens there.")


def tls_context(certificate: str, key: str, client_ca: str, watch: Watch) -> ssl.SSLContext:
    """Make the server's side of TLS; a certificate that is renewed is used from then on.

    Args:
        certificate: the chain, as PEM.
        key: its private key.
        client_ca: whose client certificates are looked at; empty: nobody is asked for one.
        watch: tells of new ones.

    Raises:
        SettingsError: one of the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def load() -> None:
        context.load_cert_chain(certificate, key)
        if client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL  # who has none may have a token
            context.load_verify_locations(client_ca)

    def renew() -> None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)  # a half-written pair harms none
            load()
        except (OSError, ssl.SSLError) as exc:
            log.error("the new certificate is not used", file=certificate, reason=str(exc))
        else:
            log.info("certificate read", file=certificate)

    try:
        load()
    except (OSError, ssl.SSLError) as exc:
        files = ", ".join(filter(None, (certificate, key, client_ca)))
        raise SettingsError(f"--tls-cert, --tls-key: {files} cannot be used: {exc}.") from None
    for path in filter(None, (certificate, key, client_ca)):
        watch.add(Path(path), renew)
    return context


def allow_many_files() -> None:
    """Let this process have as many open files as it may: each connection is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
