"""Where the server listens, from the options: the API's port and socket, and a port for metrics alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from sidecar.api import expect
from sidecar.listen import Door, Port, Socket
from sidecar.options import parse_list
from sidecar.settings import Settings
from sidecar.tls import Tls
from sidecar.watch import Watch

_SHUTDOWN_TIMEOUT = 2.0
_FOR_OWNER, _FOR_ALL = 0o600, 0o666  # who is not meant to call is told so by their uid
_KEEP_ALIVE = 75.0  # longer than any usual proxy keeps a connection that is not used


class Sites:
    """The doors, and what they open to.

    Args:
        settings: checked options.
        watch: tells when a certificate was renewed.
    """

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self._settings = settings
        self._watch = watch
        proxies = parse_list(settings.trusted_proxies)
        self.api = Door(settings.max_connections, settings.header_timeout, proxies)
        self.metrics = Door(settings.max_connections, settings.header_timeout, proxies)

    @property
    def connections(self) -> int:
        """How many there are."""
        return self.api.connections + self.metrics.connections

    async def listen(self, api: web.AppRunner, metrics: web.AppRunner | None) -> list[str]:
        """Let callers in; return the addresses of the API."""
        settings = self._settings
        tls = (
            Tls(settings.tls_cert, settings.tls_key, settings.tls_client_ca, self._watch) if settings.tls_cert else None
        )
        sites: list[Port | Socket] = []
        _open(self.api, api)
        if settings.tcp:
            sites.append(Port(api, self.api, settings.host, settings.port, tls))
        if settings.socket:
            mode = _FOR_ALL if settings.socket_users else _FOR_OWNER
            sites.append(Socket(api, self.api, Path(settings.socket), mode))
        if metrics:
            _open(self.metrics, metrics)
            await Port(metrics, self.metrics, settings.host, settings.metrics_port, tls).start()
        for site in sites:
            await site.start()
        return [site.name for site in sites]

    def close(self) -> None:
        """Forget who has not said anything yet."""
        self.api.close()
        self.metrics.close()


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[web.AppRunner]:
    """Run an application; it listens nowhere yet."""
    runner = web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # a reader that goes leaves nothing behind; commands are finished all the same
        access_log=None,
        keepalive_timeout=_KEEP_ALIVE,
        shutdown_timeout=_SHUTDOWN_TIMEOUT,
    )
    try:
        await runner.setup()
        yield runner
    finally:
        await runner.cleanup()


def _open(door: Door, runner: web.AppRunner) -> None:
    assert runner.server is not None  # noqa: S101 - it has been set up
    runner.server.request_handler = expect.only_known(runner.server.request_handler)
    door.open(runner.server)
