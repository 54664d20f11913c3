"""The one thread that owns the Flux handle and runs Flux's reactor.

flux-python has no asyncio support, and watching ``flux_pollfd`` from an asyncio loop loses events. So the reactor runs
here; requests of the event loop come through :class:`~sidecar.instance.flux.requests.Requests`.
"""

from __future__ import annotations

import asyncio
import errno
import select
import threading
from typing import Any

import flux
import flux.constants

from sidecar.instance.flux import lease
from sidecar.instance.flux.broker import Broker, handshake, socket_owner, wrong_uid_message
from sidecar.instance.flux.callbacks import Callbacks
from sidecar.instance.flux.handoff import Delivery, Wakeup
from sidecar.instance.flux.journal_reader import REREAD, JournalReader
from sidecar.instance.flux.requests import Requests

_FIRST_RETRY, _LONGEST_RETRY = 0.05, 2.0  # seconds
_CHECK_INTERVAL = 0.5  # seconds
_MOST_LATE = 10_000  # requests without a response, after which the thread reconnects


class FluxThread(threading.Thread):
    """Connects, runs the reactor until the connection breaks, and connects again.

    Args:
        uri: the instance, as ``flux.Flux()`` accepts it.
        broker_above: pid of the broker that started this process as its initial program; any other broker is asked for
            the environment that jobs inherit.
        loop: runs the callbacks.
        callbacks: the notifications.
        address: where this server listens, to be reported to a second server that is refused.
    """

    def __init__(
        self,
        uri: str,
        broker_above: int | None,
        loop: asyncio.AbstractEventLoop,
        callbacks: Callbacks,
        *,
        address: str = "",
    ) -> None:
        super().__init__(name="flux", daemon=True)
        self._uri = uri
        self._broker_above = broker_above
        self._address = address
        self._callbacks = callbacks
        self._stopping = False
        self._wakeup = Wakeup()
        self._delivery = Delivery(loop, self._on_loop_closed)
        self._handle: Any = None
        self._journal: JournalReader | None = None
        self._reason = ""
        self.requests = Requests(loop, self._wakeup, self._delivery)
        self.reached = False
        """Whether a broker has ever accepted a connection."""
        self.starting = False
        """Whether the last attempt found a broker that is still starting."""

    # --------------------------------------------------------------------------------------- on the event loop

    def expire_before(self, sent_before: float, detail: str) -> None:
        """Expire requests, see :meth:`Requests.expire_before`; reconnect if too many of them never got a response."""
        self.requests.expire_before(sent_before, detail)
        if self.requests.late > _MOST_LATE and not self.requests.queued:
            self.reconnect("a service of the broker does not respond")  # which fails them

    def reconnect(self, reason: str = REREAD) -> None:
        """End the connection and make another one."""
        self.requests.call_untimed(lambda _: self._disconnect(reason), lambda _: None)

    def stop(self) -> None:
        """Leave the reactor and end the thread."""
        self._stopping = True
        self._wakeup.force()

    # -------------------------------------------------------------------------------------- in the Flux thread

    def run(self) -> None:
        """Keep a connection until stopped; an exception of this program's ends a connection, not the thread."""
        delay = _FIRST_RETRY
        while not self._stopping:
            try:
                self._connection()
            except PermissionError as exc:  # a retry would have the same uid
                self._reason = _text(exc)
                self._delivery.post(self._callbacks.refused, self._reason)
                break
            except OSError as exc:
                self._abandon()
                self._reason = _text(exc)
                self.starting = exc.errno == errno.EAGAIN
                self._delivery.post(self._callbacks.connect_failed, self._reason)
            except Exception as exc:
                self._abandon()
                self._reason = f"{type(exc).__name__}: {exc}"
                if self._used:
                    self._delivery.post(self._callbacks.disconnected, self._reason)
                self._delivery.post(self._callbacks.crashed, exc)
            used, self._journal, self._handle = self._used, None, None
            self.requests.fail_all(self._reason or "there is no connection")
            if not self._stopping:
                delay = _FIRST_RETRY if used else delay  # back off from connections that are never used
                select.select([self._wakeup.fd], [], [], delay)
                self._wakeup.clear()
                delay = min(delay * 2, _LONGEST_RETRY)
        self.requests.close(self._reason or "the server is stopping")

    @property
    def _used(self) -> bool:
        return self._journal is not None and self._journal.started

    def _abandon(self) -> None:
        """Release the lease of a connection that could not be used; the connection ends when it is collected."""
        handle, self._handle = self._handle, None
        if handle is not None:
            lease.release(handle)

    def _connection(self) -> None:
        """Connect, and work until the connection breaks.

        Raises:
            OSError: no connection could be made.
        """
        self._reason = ""
        self._session(self._connect())

    def _connect(self) -> Broker:
        try:
            self._handle = flux.Flux(self._uri)
            self.reached = True
            self.requests.note_reply()
        except PermissionError as exc:
            raise PermissionError(exc.errno, wrong_uid_message(socket_owner(self._uri))) from exc
        return handshake(self._handle, self._broker_above, self._address)

    def _session(self, broker: Broker) -> None:
        """Run the reactor until the connection breaks or the thread is stopped."""
        handle = self._handle
        journal = self._journal = JournalReader(
            handle, self._delivery, self._callbacks, self.requests.note_reply, self._disconnect
        )
        wakeup = handle.fd_watcher_create(self._wakeup.fd, self._on_wakeup, events=flux.constants.FLUX_POLLIN)
        wakeup.start()
        check = handle.timer_watcher_create(_CHECK_INTERVAL, journal.check, repeat=_CHECK_INTERVAL)
        check.start()
        leaseholder = lease.respond(handle)
        try:
            journal.start(broker)
            self._wakeup.force()  # requests may have been queued meanwhile
            handle.reactor_run()
        except OSError as exc:
            self._reason = self._reason or _text(exc)
        finally:
            for each in (wakeup, check, leaseholder):
                each.stop()
                each.destroy()
            lease.release(handle)
        if not self._stopping:
            callback = self._callbacks.disconnected if self._used else self._callbacks.connect_failed
            self._delivery.post(callback, self._reason or "the connection was closed")

    def _disconnect(self, reason: str) -> None:
        """Leave the reactor, which ends the connection."""
        self._reason = reason
        self._handle.reactor_stop()

    def _on_wakeup(self, *_: Any) -> None:
        self._wakeup.clear()
        if self._stopping:
            self._handle.reactor_stop()
            return
        try:
            self.requests.send_queued(self._handle)
        except OSError as exc:
            self._disconnect(_text(exc))

    def _on_loop_closed(self) -> None:
        self._stopping = True


def _text(exc: OSError) -> str:
    return exc.strerror or str(exc)
