"""Watch the data that waits to be sent on a connection, and abort the connection if the peer does not read it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog

from sidecar.runtime.clock import LoopClock, Timer

log = structlog.get_logger("server")

_CHECKS = 4  # per send timeout


class PeerTimeouts(NamedTuple):
    """How long a peer may take, in seconds of ``clock``."""

    clock: LoopClock
    head: float
    """From the connection to the end of the first request's head, TLS handshake included."""
    send: float
    """Without reading any of the data sent to it."""


class SendWatchdog:
    """Abort a connection once its peer has read nothing for too long.

    Args:
        transport: writes to the socket; of a TLS connection the one below.
        timeouts: of the peer.
    """

    def __init__(self, transport: asyncio.Transport, timeouts: PeerTimeouts) -> None:
        self._transport = transport
        self._clock = timeouts.clock
        self._interval = timeouts.send / _CHECKS
        self._timer: Timer | None = None
        self._last_size = self._unchanged = 0
        self.suspended = False
        """Set during a stream, which has a timeout of its own and sends the reason why it ends."""

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""
        return self._transport.get_write_buffer_size()

    def start(self) -> None:
        """Watch: data waits from now on."""
        self._last_size, self._unchanged = self.unsent, 0
        self._timer = self._timer or self._clock.call_later(self._interval, self._check)

    def stop(self) -> None:
        """Stop watching: no data waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        # A larger buffer does not show that the peer reads, but the server writes little before it waits for the peer.
        size = self.unsent
        self._unchanged = self._unchanged + 1 if size == self._last_size and not self.suspended else 0
        self._last_size = size
        if self._unchanged >= _CHECKS:
            self._timer = None
            self.abort("a response was not read")
        else:
            self._timer = self._clock.call_later(self._interval, self._check)

    def abort(self, reason: str) -> None:
        """Discard unsent data and close the connection."""
        peer = self._transport.get_extra_info("peername")
        log.warning(reason, peer=peer[0] if isinstance(peer, tuple) else "socket", unsent=self.unsent)
        self._transport.abort()
