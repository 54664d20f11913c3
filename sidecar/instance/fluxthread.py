"""The one thread that owns the Flux handle and runs Flux's reactor.

flux-python has no asyncio, and watching ``flux_pollfd`` from an asyncio loop loses events. So the reactor runs here;
the loop hands it commands through a queue and an eventfd, and gets results back by ``call_soon_threadsafe``. Both
ways are coalesced: one wake-up carries everything that has gathered, which is what makes submits fast.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import flux
import flux.constants
import msgspec
import structlog
from flux.core.inner import ffi, raw

from sidecar.errors import Unanswered, Unavailable
from sidecar.instance.broker import Broker, guest, introduce, socket_owner
from sidecar.model import JobEvents, decode_events

T = TypeVar("T")
log = structlog.get_logger("flux")
Start = Callable[[Any], Any]
Finish = Callable[[Any], T]

_FIRST_RETRY, _LONGEST_RETRY = 0.05, 2.0
_TURN = 64
_AHEAD, _PAUSE = 2000, 0.05
_BROKEN = (errno.EPIPE, errno.ECONNRESET)


class Callbacks(msgspec.Struct):
    """What the thread tells, always on the event loop and in order."""

    up: Callable[[Broker], None]
    events: Callable[[JobEvents], None]
    down: Callable[[str], None]
    failed: Callable[[str], None]
    refused: Callable[[str], None]
    """The broker belongs to somebody else; the thread has ended."""
    backlog: Callable[[], int]
    """How many events wait to be worked on; asked in the Flux thread."""


class _Command(msgspec.Struct):
    """What the loop wants done: ``start`` is called with the handle, ``finish`` with what Flux answers.

    With ``take`` there are many answers: each is handed to it, until ENODATA ends them.
    """

    start: Start
    finish: Finish[Any]
    future: asyncio.Future[Any]
    take: Callable[[Any], None] | None = None


class FluxThread(threading.Thread):
    """Connects, runs the reactor until the connection breaks, and connects again.

    Args:
        uri: the instance, as ``flux.Flux()`` takes it.
        broker_above: the broker whose initial program this process is; from any other the environment that jobs
            inherit is asked for.
        loop: where results and callbacks go.
        callbacks: what to tell.
    """

    def __init__(
        self, uri: str, broker_above: int | None, loop: asyncio.AbstractEventLoop, callbacks: Callbacks
    ) -> None:
        super().__init__(name="flux", daemon=True)
        self._uri = uri
        self._broker_above = broker_above
        self._loop = loop
        self._callbacks = callbacks
        self._stopping = False
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inbox: deque[_Command] = deque()
        self._waking = self._woken = False
        self._outbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._posted = False
        self._pending: set[asyncio.Future[Any]] = set()
        self._handle: Any = None
        self._reason = ""
        self._up: Broker | None = None
        self._streams: dict[asyncio.Future[Any], Any] = {}
        self._unanswered: dict[asyncio.Future[Any], float] = {}  # on the event loop
        self._late: dict[asyncio.Future[Any], asyncio.Future[Any]] = {}  # on the event loop
        self.heard = time.monotonic()
        """When the broker has said something last."""
        self.asked = 0.0
        """When Flux was asked first since then: only from there on does silence mean anything."""

    # --------------------------------------------------------------------------------------- on the event loop

    def call(self, start: Start, finish: Finish[T]) -> asyncio.Future[T]:
        """Run ``start(handle)`` in the Flux thread, and ``finish`` on the Flux future that it returns.

        Returns:
            A future with what ``finish`` returned, or the OSError that either raised.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._unanswered[future] = time.monotonic()
        self._send(_Command(start, finish, future))
        return future

    def ask(self, start: Start, finish: Finish[T]) -> asyncio.Future[T]:
        """As :meth:`call`, for who only listens: an answer that never comes is no error, and is not given up."""
        future: asyncio.Future[T] = self._loop.create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody has to look
        self._send(_Command(start, finish, future))
        return future

    def give_up(self, sent_before: float, detail: str) -> None:
        """Let nobody wait any longer for answers to what was sent before a time (:func:`time.monotonic`).

        They get :class:`Unanswered`, whose ``result`` tells when the answer comes after all.
        """
        for future, sent in list(self._unanswered.items()):
            if sent >= sent_before:
                break
            del self._unanswered[future]
            if not future.done():
                late = self._late[future] = self._loop.create_future()
                late.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody has to look
                future.set_exception(Unanswered(detail, late))

    async def stream(
        self, start: Start, finish: Finish[T], take: Callable[[T], None], cancel: Callable[[Any], None]
    ) -> None:
        """Run ``start(handle)`` in the Flux thread; hand ``finish`` of every answer to ``take``, until ENODATA.

        ``cancel`` is called in the thread, with the Flux future, when the caller no longer wants more.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        self._send(_Command(start, finish, future, take))
        try:
            await future
        finally:

            def stop(_: Any) -> None:
                if (running := self._streams.get(future)) is not None:
                    cancel(running)

            if future.cancelled():
                self._send(_Command(stop, lambda _: None, self._loop.create_future()))

    def _send(self, command: _Command) -> None:
        self._inbox.append(command)
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Wake the thread once for all commands of this turn of the loop: each wake-up is a fight for the GIL."""
        self._waking = False
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Leave the reactor and end the thread."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)

    # -------------------------------------------------------------------------------------- in the Flux thread

    def run(self) -> None:
        """Keep a connection until told to stop."""
        delay = _FIRST_RETRY
        while not self._stopping:
            try:
                broker = self._connect()
            except PermissionError as exc:  # whoever tries again is the same user
                self._post(self._callbacks.refused, _words(exc))
                self._fail_pending(_words(exc))
                return
            except OSError as exc:
                self._post(self._callbacks.failed, _words(exc))
                self._handle = None
            else:
                self._session(broker)
                if self._up is None:  # it was in use; one that never was must not be asked in a tight loop
                    delay = _FIRST_RETRY
            self._fail_pending(self._reason or "there is no connection")
            if not self._stopping:
                select.select([self._wake_fd], [], [], delay)
                self._drain_wake()
                delay = min(delay * 2, _LONGEST_RETRY)

    def _connect(self) -> Broker:
        try:
            self._handle = flux.Flux(self._uri)
            self.heard = time.monotonic()
        except PermissionError as exc:
            raise PermissionError(exc.errno, guest(socket_owner(self._uri))) from exc
        return introduce(self._handle, self._broker_above)

    def _session(self, broker: Broker) -> None:
        """Run the reactor until the connection breaks or the thread is stopped."""
        handle, self._reason = self._handle, ""
        watcher = handle.fd_watcher_create(self._wake_fd, self._on_wake, events=flux.constants.FLUX_POLLIN)
        watcher.start()
        self._up = broker
        try:
            journal = handle.rpc("job-manager.events-journal", {"full": True}, 0, flux.constants.FLUX_RPC_STREAMING)
            journal.then(self._on_journal)
            os.eventfd_write(self._wake_fd, 1)  # commands may have gathered meanwhile
            handle.reactor_run()
        except OSError as exc:
            self._reason = self._reason or _words(exc)
        except Exception as exc:  # a callback has failed, which stops the reactor: without it nobody would be served
            log.exception("the Flux thread begins anew")
            self._reason = str(exc)
        finally:
            watcher.stop()
            watcher.destroy()
            self._handle = None
        if not self._stopping:
            tell = self._callbacks.down if self._up is None else self._callbacks.failed
            self._post(tell, self._reason or "the connection was closed")

    def _on_journal(self, rpc: Any) -> None:
        self.heard = time.monotonic()
        try:
            text = _payload(rpc)
        except OSError as exc:
            self._reason = f"the job manager's journal ended: {_words(exc)}"
            # Never begun, or ended because the job manager was unloaded: nobody would notice a broken connection
            # now, and no event would come. So let go of it, and try again from the start.
            self._handle.reactor_stop()
            return
        if self._up is not None:
            self._post(self._callbacks.up, self._up)
            self._up = None
        try:
            self._post(self._callbacks.events, decode_events(text))
        except msgspec.DecodeError as exc:
            log.error("an event cannot be read", reason=str(exc))
        raw.flux_future_reset(rpc.handle)
        # A long history waits in the broker, which has it anyway, rather than in our memory. Only for a moment at
        # a time: commands wait behind it.
        pause = time.monotonic() + _PAUSE
        while len(self._outbox) + self._callbacks.backlog() > _AHEAD and time.monotonic() < pause:
            time.sleep(_PAUSE / 25)

    def _on_wake(self, *_: Any) -> None:
        self._drain_wake()
        if self._stopping:
            self._handle.reactor_stop()
            return
        for _turn in range(_TURN):
            if not self._inbox:
                return
            command = self._inbox.popleft()
            future = command.future
            self._pending.add(future)
            if self.asked <= self.heard:
                self.asked = time.monotonic()
            try:
                running = command.start(self._handle)
                if running is None:
                    self._resolve(future, None, None)
                elif command.take:
                    self._streams[future] = running
                    running.then(self._on_item, command)
                else:
                    running.then(self._on_answer, command.finish, future)
            except OSError as exc:
                self._resolve(future, None, exc)
                if exc.errno in _BROKEN:
                    self._reason = _words(exc)
                    self._handle.reactor_stop()
                    return
        if self._inbox:  # the rest in the next turn of the reactor, which has answers to hand out
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def _drain_wake(self) -> None:
        """Take the wake-up, and only then let the next command write another: in this order none is lost."""
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass  # nobody has written: this was the end of a pause
        finally:
            self._woken = False

    def _on_item(self, rpc: Any, command: _Command) -> None:
        self.heard = time.monotonic()
        try:
            item = command.finish(rpc)
        except OSError as exc:
            del self._streams[command.future]
            self._resolve(command.future, None, None if exc.errno == errno.ENODATA else exc)
            return
        if command.take and not command.future.cancelled():
            self._post(command.take, item)
        raw.flux_future_reset(rpc.handle)

    def _on_answer(self, rpc: Any, finish: Finish[Any], future: asyncio.Future[Any]) -> None:
        self.heard = time.monotonic()
        try:
            self._resolve(future, finish(rpc), None)
        except OSError as exc:
            self._resolve(future, None, OSError(exc.errno, rpc.error_string() or exc.strerror))
        except ValueError as exc:  # an answer that is not what the protocol says
            self._resolve(future, None, OSError(errno.EPROTO, f"unexpected answer: {exc}"))

    def _resolve(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        self._pending.discard(future)
        self._post(self._settle, future, value, error)

    def _fail_pending(self, reason: str) -> None:
        waiting = [*self._pending, *(command.future for command in self._inbox)]
        self._pending.clear()
        self._streams.clear()
        self._inbox.clear()
        for future in waiting:
            self._post(self._settle, future, None, Unavailable(f"The connection to the instance is lost: {reason}"))

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        self._outbox.append((function, args))
        if not self._posted:
            self._posted = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop has closed: nobody is left to tell
                self._stopping = True

    def _settle(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        """Run on the event loop: give an answer to who waits for it, or to who may still ask."""
        self._unanswered.pop(future, None)
        target = self._late.pop(future, future)
        if target.done():
            return  # the caller has given up
        if error is None:
            target.set_result(value)
        else:
            target.set_exception(error)

    def _deliver(self) -> None:
        """Run on the event loop: hand out all that has gathered."""
        self._posted = False
        while self._outbox:
            function, args = self._outbox.popleft()
            function(*args)


def _payload(rpc: Any) -> bytes:
    """Return an answer's JSON; ``RPC.get_str()`` looks up the handle each time, which shows at a thousand a second."""
    text = ffi.new("char *[1]")
    raw.flux_rpc_get(rpc.handle, text)
    return bytes(ffi.string(text[0]))


def _words(exc: OSError) -> str:
    return exc.strerror or str(exc)
