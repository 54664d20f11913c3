"""Reads the job manager's events journal on one connection. Runs in the Flux thread."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Any

import flux.constants
import structlog
from flux.core.inner import raw

from sidecar.instance.flux import journal, payload
from sidecar.instance.flux.broker import Broker
from sidecar.instance.flux.callbacks import Callbacks
from sidecar.instance.flux.handoff import Delivery

log = structlog.get_logger("flux")

_TOPIC = "job-manager.events-journal"
_AHEAD, _PAUSE = 2000, 0.05  # responses that may wait to be processed; seconds of a pause above that
_AHEAD_BYTES, _LEAST_AHEAD = 16 * 1024 * 1024, 16
_TOO_FAR = 3 * _AHEAD  # above this the journal is canceled until all responses are processed
REREAD = "the history is read again"


class JournalReader:
    """Posts the events of the journal to the event loop.

    Args:
        handle: the connection.
        delivery: runs functions on the event loop.
        callbacks: receive the events.
        note_reply: called with each response.
        disconnect: ends the connection, with the reason.
    """

    def __init__(
        self,
        handle: Any,
        delivery: Delivery,
        callbacks: Callbacks,
        note_reply: Callable[[], None],
        disconnect: Callable[[str], None],
    ) -> None:
        self._handle = handle
        self._delivery = delivery
        self._callbacks = callbacks
        self._note_reply = note_reply
        self._disconnect = disconnect
        self._broker: Broker | None = None
        self._rpc: Any = None  # keeps the future alive: flux-python drops its own reference with the first response
        self._canceled = False
        self.started = False
        """Whether the first response has come: the connection is in use."""

    def start(self, broker: Broker) -> None:
        """Request the journal from the active jobs on; ``broker`` is reported as connected with the first response."""
        self._broker = broker
        self._rpc = self._handle.rpc(_TOPIC, {"full": False}, 0, flux.constants.FLUX_RPC_STREAMING)
        self._rpc.then(self._on_response)

    def check(self, *_: Any) -> None:
        """Reconnect to read the journal again after all responses of a canceled one were processed."""
        if self._canceled and not self._delivery.backlog and not self._callbacks.backlog():
            self._disconnect(REREAD)

    def _on_response(self, rpc: Any) -> None:
        self._note_reply()
        try:
            text = payload.read_json(rpc)
        except OSError as exc:
            if self._canceled and exc.errno == errno.ENODATA:
                return
            # The journal could not start, or the job manager was unloaded: a broken connection would go unnoticed now
            # and no event would come. So connect again.
            self._disconnect(f"the job manager's journal ended: {exc.strerror or exc}")
            return
        if not self.started:
            self.started = True
            self._delivery.post(self._callbacks.connected, self._broker)
        try:
            self._delivery.post(self._callbacks.events, journal.decode(text))
        except Exception as exc:  # one malformed event must not end the journal of all jobs
            log.error("an event cannot be read", reason=f"{type(exc).__name__}: {exc}")
        raw.flux_future_reset(rpc.handle)
        self._limit_backlog(rpc, len(text))

    def _limit_backlog(self, rpc: Any, size: int) -> None:
        """Pause while more responses than a limit wait to be processed; cancel the journal if there are far too many.

        A long history waits in the broker, which has it anyway, rather than in this server's memory. The pause is
        short: requests wait meanwhile.

        Args:
            rpc: the journal.
            size: bytes of the last response.
        """
        ahead = min(_AHEAD, max(_LEAST_AHEAD, _AHEAD_BYTES // size))
        if self._backlog > _TOO_FAR:
            self._cancel(rpc)
        end = time.monotonic() + _PAUSE
        while self._backlog > ahead and time.monotonic() < end:
            time.sleep(_PAUSE / 25)

    @property
    def _backlog(self) -> int:
        return self._delivery.backlog + self._callbacks.backlog()

    def _cancel(self, rpc: Any) -> None:
        """Cancel the journal: the store seems to accept nothing, and further events would fill memory here."""
        if not self._canceled:
            self._canceled = True
            self._delivery.post(self._callbacks.interrupted)
            log.warning("the journal is not followed: too much of it waits to be stored")
            request = {"matchtag": raw.flux_rpc_get_matchtag(rpc.handle)}
            self._handle.rpc(f"{_TOPIC}-cancel", request, 0, flux.constants.FLUX_RPC_NORESPONSE)
