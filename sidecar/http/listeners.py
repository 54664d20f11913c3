"""Where the server listens, from the options: the API's port and socket, and a port for metrics alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from sidecar.config.settings import Settings
from sidecar.config.values import parse_list
from sidecar.http import request_head as head
from sidecar.http.acceptor import connections_allowed
from sidecar.http.connection import counted
from sidecar.http.connections import ConnectionLimiter, Port
from sidecar.http.tls import Tls
from sidecar.http.unix_socket import Socket
from sidecar.http.unsent import Patience
from sidecar.runtime.clock import LoopClock, Timer
from sidecar.runtime.filewatch import FileWatcher
from sidecar.telemetry import logs

_SHUTDOWN_TIMEOUT = 2.0
_FOR_OWNER, _FOR_ALL = 0o600, 0o666  # other users are refused by their uid
_LOOK = 1.0  # seconds
_OF_METRICS = 8  # the port for metrics alone has this part of all connections


class Listeners:
    """The doors, and what they open to.

    Args:
        settings: checked options.
        watch: tells when a certificate was renewed.
    """

    def __init__(self, settings: Settings, watch: FileWatcher) -> None:
        self._settings = settings
        self._watch = watch
        self.clock = LoopClock()
        self._looking: Timer | None = None
        self._socket: Socket | None = None
        proxies = parse_list(settings.listen.trusted_proxies)
        patience = Patience(self.clock, settings.limits.header_timeout, settings.limits.send_timeout)
        unsent = settings.limits.max_in_flight << 20
        self.api = ConnectionLimiter(settings.limits.max_connections, patience, unsent, proxies)
        self.metrics = ConnectionLimiter(settings.limits.max_connections, patience, unsent, proxies)

    @property
    def connections(self) -> int:
        """How many there are."""
        return self.api.connections + self.metrics.connections

    async def listen(self, api: web.AppRunner, metrics: web.AppRunner | None) -> list[str]:
        """Let callers in; return the addresses of the API."""
        settings, files = self._settings, self._settings.tls
        tls = Tls(files.tls_cert, files.tls_key, files.tls_client_ca, self._watch) if files.tls_cert else None
        sites: list[Port | Socket] = []
        self.clock.start()
        self._look()
        most = connections_allowed(settings.limits.max_connections)
        if metrics:
            self.metrics.most = max(1, most // _OF_METRICS)
            most -= self.metrics.most
        self.api.most = most
        _open(self.api, api)
        if settings.listen.tcp:
            sites.append(Port(api, self.api, (settings.listen.host, settings.listen.port), tls))
        if settings.listen.socket:
            mode = _FOR_ALL if settings.access.socket_users else _FOR_OWNER
            self._socket = Socket(api, self.api, Path(settings.listen.socket), mode)
            sites.append(self._socket)
        if metrics:
            _open(self.metrics, metrics)
            address = settings.listen.host, settings.telemetry.metrics_port
            await Port(metrics, self.metrics, address, tls, "--metrics-port").start()
        for site in sites:
            await site.start()
        return [site.name for site in sites]

    @property
    def trouble(self) -> str:
        """Why callers do not reach it in one of the ways that there should be; empty when they do."""
        return self._socket.trouble if self._socket else ""

    def _look(self) -> None:
        """Look after the socket, and say how many lines of the log were left out, also when no line follows them."""
        logs.report_dropped()
        if self._socket:
            self._socket.look()
        self._looking = self.clock.call_later(_LOOK, self._look)

    def close(self) -> None:
        """Forget all timers."""
        if self._looking is not None:
            self._looking.cancel()
        logs.report_dropped(now=True)
        self.api.close()
        self.metrics.close()
        self.clock.close()


@asynccontextmanager
async def app_runner(app: web.Application) -> AsyncIterator[web.AppRunner]:
    """Run an application; it listens nowhere yet."""
    runner = web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # a reader that goes leaves nothing behind; commands are finished all the same
        shutdown_timeout=_SHUTDOWN_TIMEOUT,
    )
    try:
        await runner.setup()
        yield runner
    finally:
        await runner.cleanup()


def _open(door: ConnectionLimiter, runner: web.AppRunner) -> None:
    assert runner.server is not None  # noqa: S101 - it has been set up
    runner.server.request_handler = counted(head.understood(runner.server.request_handler))
    door.open(runner.server)
