"""The connection to a Flux instance: its state, its loss, and the end of the instance."""

from __future__ import annotations

import asyncio
import math
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from sidecar.config.early import LOCAL
from sidecar.domain.model import JournalBegin
from sidecar.instance.base import Ending, Sink, Status
from sidecar.instance.flux.broker import STATE_TOPIC, Broker
from sidecar.instance.flux.callbacks import Callbacks
from sidecar.instance.flux.environment import find_broker_above
from sidecar.instance.flux.requests import Requests
from sidecar.instance.flux.thread import FluxThread
from sidecar.runtime.tasks import Supervised, Supervisor

log = structlog.get_logger("flux")

_PING_INTERVAL = 0.5  # seconds
_STUCK = 10.0  # seconds
_FIRST_ATTEMPT = 2.0  # seconds in which a connection to another machine is usually made


class Timeouts(msgspec.Struct):
    """Timeouts in seconds."""

    rpc: float
    """Of one response."""
    lost: float
    """How long a broken connection is retried before the instance counts as gone."""
    silence: float
    """How long the broker may send nothing before it counts as lost."""


class FluxConnection:
    """Runs the Flux thread and follows the state of its connection.

    Args:
        status: is kept up to date.
        timeouts: of responses and of the connection.
        on_connected: called with each new connection: it may be to another instance.
        address: where this server listens, to be reported to a second server that is refused.
    """

    def __init__(self, status: Status, timeouts: Timeouts, on_connected: Callable[[], None], *, address: str) -> None:
        self.status = status
        self.gone = asyncio.Event()
        self.refusal = ""
        self.broker: Broker | None = None
        """The broker of the last connection."""
        self._timeouts = timeouts
        self._on_new_connection = on_connected
        self._address = address
        self._broker_above = find_broker_above()
        self._thread: FluxThread
        self._sink: Sink
        self._tasks: Supervisor
        self._started = math.inf
        self._connected = False
        self._countdown: asyncio.TimerHandle | None = None
        self._pinging: Supervised | None = None

    def start(self, sink: Sink, tasks: Supervisor) -> Requests:
        """Start to connect; return the requests of the thread."""
        self._sink, self._tasks = sink, tasks
        callbacks = Callbacks(
            connected=self._on_connected,
            events=sink.push,
            interrupted=sink.interrupted,
            disconnected=self._on_disconnected,
            connect_failed=self._on_connect_failed,
            refused=self._on_refused,
            crashed=self._on_crashed,
            backlog=lambda: sink.backlog,
        )
        loop = asyncio.get_running_loop()
        self._thread = FluxThread(self.status.uri, self._broker_above, loop, callbacks, address=self._address)
        self._thread.start()
        self._started = time.monotonic()
        self._pinging = tasks.start(self._ping, "ping", vital=True)
        return self._thread.requests

    def reconnect(self) -> None:
        """Connect again: the journal then starts with its history."""
        self._thread.reconnect()

    async def close(self) -> None:
        """End the thread; the instance continues."""
        if self._pinging:
            await self._pinging.close()
        self._cancel_countdown()
        self._thread.stop()
        await asyncio.to_thread(self._thread.join, 1.0)

    @property
    def fault(self) -> str:
        """The error if the thread hangs, or has ended before the instance has."""
        if self.gone.is_set():
            return ""
        if not self._thread.is_alive():
            return "The Flux thread has ended."
        stuck = self._stuck_for
        return f"The Flux thread has done nothing for {stuck:.0f} s." if stuck > _STUCK else ""

    @property
    def _stuck_for(self) -> float:
        """How long the thread has not taken a queued request, in seconds: it hangs in a callback."""
        return self._thread.requests.stuck_for if self._connected else 0.0

    @property
    def may_connect(self) -> bool:
        """Whether a broker may exist: a local socket is checked.

        A broker elsewhere counts as absent until it was reached, except during the first attempt.
        """
        if self.status.uri.startswith(LOCAL):
            return _is_listening(self.status.uri.removeprefix(LOCAL))
        first = not self.status.detail and time.monotonic() - self._started < _FIRST_ATTEMPT
        return first or self._thread.reached

    @property
    def ending(self) -> Ending:
        """Whether the instance ends with this server, by a shutdown, or with another initial program."""
        if self.broker is None:
            return "exit" if self._broker_above else "foreign"
        if self.broker.pid == self._broker_above:
            return "exit"
        return "shutdown" if self.broker.rc2_none else "foreign"

    # --------------------------------------------------------------------------------- callbacks of the thread

    def _on_connected(self, broker: Broker) -> None:
        self.broker = broker
        self._on_new_connection()
        self._connected = True
        self._cancel_countdown()
        self.status.version, self.status.size, self.status.rank = broker.version, broker.size, broker.rank
        self.status.set_connection("ready")
        log.info("connected", uri=self.status.uri, version=broker.version, size=broker.size, ending=self.ending)
        self._sink.push(JournalBegin(broker.identity))

    def _on_disconnected(self, reason: str) -> None:
        self.status.set_connection("lost", reason)
        log.warning("connection lost", reason=reason)
        self._connected = False
        self._start_countdown()

    def _on_connect_failed(self, reason: str) -> None:
        if self._thread.starting:
            self._cancel_countdown()  # there is a broker again, however long it takes to start
        elif self.status.connection == "lost" and not self._connected:
            self._start_countdown()
        if self.status.detail != reason:
            log.info("cannot connect, will retry", uri=self.status.uri, reason=reason)
        self.status.set_connection(self.status.connection, reason)

    def _on_refused(self, reason: str) -> None:
        log.error("this instance cannot be served", uri=self.status.uri, reason=reason)
        self.status.set_connection(self.status.connection, reason)
        self.refusal = reason
        self.gone.set()

    def _on_crashed(self, exc: BaseException) -> None:
        """Report an error of this program's own; only an error of the connection indicates the broker's end."""
        self._tasks.record_death("flux", exc)
        self._cancel_countdown()
        self.status.set_connection(self.status.connection, f"{type(exc).__name__}: {exc}")

    def _start_countdown(self) -> None:
        """Count the instance as gone unless there is a connection within the lost timeout."""
        if self._countdown is None:
            self._countdown = asyncio.get_running_loop().call_later(self._timeouts.lost, self.gone.set)

    def _cancel_countdown(self) -> None:
        if self._countdown:
            self._countdown.cancel()
            self._countdown = None

    # ------------------------------------------------------------------------------------------------- silence

    async def _ping(self) -> None:
        """Detect a broker that keeps the connection without responding, and expire requests."""
        probe: asyncio.Future[str] | None = None
        interval = min(_PING_INTERVAL, self._timeouts.silence / 4)
        while True:
            await asyncio.sleep(interval)
            if not self._connected:
                continue
            now = time.monotonic()
            silent = now - self._thread.requests.last_reply
            self._check_silence(now)
            rpc_timeout = self._timeouts.rpc
            self._thread.expire_before(now - rpc_timeout, f"Flux has not answered for {rpc_timeout:g} s.")
            if silent > interval and (probe is None or probe.done()):
                probe = self._thread.requests.call_untimed(_request_state, _read_state)
                probe.add_done_callback(self._note_state)

    def _check_silence(self, now: float) -> None:
        """Set the connection to lost, or ready again, by the broker's silence; expire all requests when it is lost."""
        requests = self._thread.requests
        # Counted from when a request was sent: this event loop may have been busy, which is not the broker's silence.
        waiting = requests.first_unanswered > requests.last_reply
        unanswered = now - requests.first_unanswered if waiting else 0.0
        stuck = self._stuck_for
        if stuck > self._timeouts.silence:
            detail = f"The Flux thread has done nothing for {stuck:.1f} s."
            if self.status.set_connection("lost", detail):
                log.error("the Flux thread hangs", reason=detail)
            self._thread.expire_before(now, detail)
        elif unanswered > self._timeouts.silence:
            detail = f"The broker has not answered for {unanswered:.1f} s."
            if self.status.set_connection("lost", detail):
                log.warning("no response", reason=detail)
            self._thread.expire_before(now, detail)
        elif not unanswered and self.status.set_connection("ready"):
            log.info("the instance responds again")

    def _note_state(self, probe: asyncio.Future[str]) -> None:
        if not probe.cancelled() and probe.exception() is None:
            self.status.broker_state = probe.result()


def _request_state(handle: Any) -> Any:
    return handle.rpc(STATE_TOPIC, None, 0)


def _read_state(rpc: Any) -> str:
    return str(rpc.get()["state"])


def _is_listening(path: str) -> bool:
    """Whether a process listens on a Unix socket; one that was killed leaves the file."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
    return True
