"""Listen as configured: a port and a Unix socket for the API, and optionally a port for metrics alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web

from sidecar.config.settings import Settings
from sidecar.config.values import parse_list
from sidecar.http.acceptor import raise_descriptor_limit
from sidecar.http.connection import track_requests
from sidecar.http.connections import ConnectionLimiter
from sidecar.http.head_checks import reject_unsupported
from sidecar.http.send_watchdog import PeerTimeouts
from sidecar.http.tcp_listener import Listener, TcpListener
from sidecar.http.tls import Tls
from sidecar.http.unix_listener import UnixListener
from sidecar.runtime.clock import LoopClock, Timer
from sidecar.runtime.filewatch import FileWatcher
from sidecar.telemetry import logs

_SHUTDOWN_TIMEOUT = 2.0  # seconds
_OWNER_ONLY, _ALL_USERS = 0o600, 0o666  # of the socket; with the second, users are authorized by their uid
_PERIOD = 1.0  # seconds between checks
_METRICS_SHARE = 8  # the port for metrics alone has this fraction of the connections


class Listeners:
    """The listeners of a server.

    Args:
        settings: checked options.
        watch: reports renewed certificates.
    """

    def __init__(self, settings: Settings, watch: FileWatcher) -> None:
        self._settings = settings
        self._watch = watch
        self.clock = LoopClock()
        self._timer: Timer | None = None
        self._socket: UnixListener | None = None
        limits = settings.limits
        proxies = parse_list(settings.listen.trusted_proxies)
        timeouts = PeerTimeouts(self.clock, limits.header_timeout, limits.send_timeout)
        max_unsent = limits.max_in_flight << 20
        self.api = ConnectionLimiter(limits.max_connections, timeouts, max_unsent, proxies)
        self.metrics = ConnectionLimiter(limits.max_connections, timeouts, max_unsent, proxies)

    @property
    def connections(self) -> int:
        """Open connections of all listeners."""
        return self.api.connections + self.metrics.connections

    @property
    def unreachable(self) -> str:
        """Why clients cannot connect to one of the listeners; empty if they can."""
        return self._socket.unreachable if self._socket else ""

    async def listen(self, api: web.AppRunner, metrics: web.AppRunner | None) -> list[str]:
        """Listen, and return the URLs of the API.

        Raises:
            SettingsError: an address, or a file of the certificate, cannot be used.
        """
        settings, files = self._settings, self._settings.tls
        tls = Tls(files.tls_cert, files.tls_key, files.tls_client_ca, self._watch) if files.tls_cert else None
        self.clock.start()
        self._check()
        available = raise_descriptor_limit(settings.limits.max_connections)
        if metrics:
            self.metrics.max_connections = max(1, available // _METRICS_SHARE)
            available -= self.metrics.max_connections
        self.api.max_connections = available
        _connect(self.api, api)
        listeners: list[Listener] = []
        if settings.listen.tcp:
            listeners.append(TcpListener(api, self.api, (settings.listen.host, settings.listen.port), tls))
        if settings.listen.socket:
            mode = _ALL_USERS if settings.access.socket_users else _OWNER_ONLY
            self._socket = UnixListener(api, self.api, Path(settings.listen.socket), mode)
            listeners.append(self._socket)
        if metrics:
            _connect(self.metrics, metrics)
            address = settings.listen.host, settings.telemetry.metrics_port
            await TcpListener(metrics, self.metrics, address, tls, "--metrics-port").start()
        for listener in listeners:
            await listener.start()
        return [listener.name for listener in listeners]

    def _check(self) -> None:
        """Check the socket, and report omitted log lines even if no other line follows."""
        logs.report_dropped()
        if self._socket:
            self._socket.check()
        self._timer = self.clock.call_later(_PERIOD, self._check)

    def close(self) -> None:
        """Cancel all timers."""
        if self._timer is not None:
            self._timer.cancel()
        logs.report_dropped(now=True)
        self.api.close()
        self.metrics.close()
        self.clock.close()


@asynccontextmanager
async def app_runner(app: web.Application) -> AsyncIterator[web.AppRunner]:
    """Start an application, which does not listen yet, and clean it up at the end."""
    runner = web.AppRunner(
        app,
        handle_signals=False,
        handler_cancellation=True,  # of a disconnected reader nothing remains; commands run to their end all the same
        shutdown_timeout=_SHUTDOWN_TIMEOUT,
    )
    try:
        await runner.setup()
        yield runner
    finally:
        await runner.cleanup()


def _connect(limiter: ConnectionLimiter, runner: web.AppRunner) -> None:
    assert runner.server is not None  # noqa: S101 - it has been set up
    runner.server.request_handler = track_requests(reject_unsupported(runner.server.request_handler))
    limiter.start(runner.server)
