"""What waits to be sent on a connection, and how long its peer may leave it."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import structlog

from sidecar.runtime.clock import LoopClock, Timer

log = structlog.get_logger("server")

_LOOKS = 4  # how often a reader is looked at within its patience


class Patience(NamedTuple):
    """How long a peer may take, in seconds of ``clock``."""

    clock: LoopClock
    head: float
    """From the connection to the end of the first request's head, a TLS handshake included."""
    send: float
    """For what it is sent, while it takes nothing of it."""


class Unsent:
    """What waits to be sent on one connection; a peer that takes nothing of it is cut off.

    Args:
        transport: the one that writes to the socket; of TLS the one below.
        patience: how long the peer may take nothing.
    """

    def __init__(self, transport: asyncio.Transport, patience: Patience) -> None:
        self._transport = transport
        self._clock = patience.clock
        self._interval = patience.send / _LOOKS
        self._timer: Timer | None = None
        self._last = self._unchanged = 0
        self.lenient = False
        """Set while a stream is sent, which has a time-out of its own and says why it ends."""

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._transport.get_write_buffer_size()

    def begin(self) -> None:
        """Watch from now on: something waits."""
        self._last, self._unchanged = self.size, 0
        self._timer = self._timer or self._clock.call_later(self._interval, self._look)

    def end(self) -> None:
        """Watch no longer: nothing waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        # More than before is no sign of life, but the server writes only so much before it waits for the peer.
        size = self.size
        self._unchanged = self._unchanged + 1 if size == self._last and not self.lenient else 0
        self._last = size
        if self._unchanged >= _LOOKS:
            self._timer = None
            self.cut_off("an answer was not read")
        else:
            self._timer = self._clock.call_later(self._interval, self._look)

    def cut_off(self, why: str) -> None:
        """Give up what waits, and the connection."""
        peer = self._transport.get_extra_info("peername")
        log.warning(why, peer=peer[0] if isinstance(peer, tuple) else "socket", unsent=self.size)
        self._transport.abort()
