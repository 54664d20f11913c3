"""Listen on a TCP port, with or without TLS."""

from __future__ import annotations

import asyncio

from aiohttp import web

from sidecar.config.values import SettingsError
from sidecar.http.acceptor import Acceptor
from sidecar.http.connections import ConnectionLimiter
from sidecar.http.tls import Tls


class Listener(web.BaseSite):
    """A listening address of an application; an :class:`~sidecar.http.acceptor.Acceptor` accepts its connections."""

    _acceptor: Acceptor | None = None

    async def stop(self) -> None:
        """Stop listening."""
        if self._acceptor is not None:
            self._acceptor.close()
        await super().stop()


class TcpListener(Listener):
    """A TCP port.

    Args:
        runner: of the application.
        limiter: accepts connections.
        address: host and port; port 0 selects a free one.
        tls: None for plain HTTP.
        option: the option that sets the port, for errors.
    """

    def __init__(
        self,
        runner: web.AppRunner,
        limiter: ConnectionLimiter,
        address: tuple[str, int],
        tls: Tls | None,
        option: str = "--port",
    ) -> None:
        super().__init__(runner)
        self._limiter = limiter
        self._host, self._port = address
        self._tls = tls
        self._option = option

    @property
    def name(self) -> str:
        """The address as a URL."""
        scheme = "https" if self._tls else "http"
        return f"{scheme}://{f'[{self._host}]' if ':' in self._host else self._host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the address is not available.
        """
        await super().start()
        loop = asyncio.get_running_loop()
        try:
            # asyncio binds, by its rules for names with several addresses; the acceptor takes over its sockets.
            bound = await loop.create_server(asyncio.Protocol, self._host, self._port, start_serving=False)
        except OSError as exc:
            raise SettingsError(
                f"{self._option}: cannot listen on {self._host} port {self._port}: {exc.strerror or exc}. "
                f"Choose another {self._option}, or another --host."
            ) from None
        sockets = [each.dup() for each in bound.sockets]
        bound.close()
        self._acceptor = Acceptor(sockets, self._limiter.factory(self._tls), self._backlog)
        self._host, self._port = sockets[0].getsockname()[:2]
