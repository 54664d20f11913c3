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

from sidecar.domain.errors import ResponseTimeout, Unavailable
from sidecar.domain.model import JobEvents
from sidecar.instance.flux import journal, lease
from sidecar.instance.flux.broker import Broker, handshake, socket_owner, wrong_uid_message

T = TypeVar("T")
log = structlog.get_logger("flux")
Start = Callable[[Any], Any]
Finish = Callable[[Any], T]

_JOURNAL = "job-manager.events-journal"
_FIRST_RETRY, _LONGEST_RETRY = 0.05, 2.0
_TURN = 64
_AHEAD, _PAUSE = 2000, 0.05
_AHEAD_BYTES, _LEAST_AHEAD = 16 * 1024 * 1024, 16
_TOO_FAR = 3 * _AHEAD  # from there on the journal is not followed until all of it has been worked on
_LOOK = 0.5  # seconds
_MOST_LATE = 10_000  # RPCs
_BROKEN = (errno.EPIPE, errno.ECONNRESET)


class Callbacks(msgspec.Struct):
    """What the thread tells, always on the event loop and in order."""

    up: Callable[[Broker], None]
    events: Callable[[JobEvents], None]
    interrupted: Callable[[], None]
    """The journal is not followed any more; what it holds comes with the next connection's history."""
    down: Callable[[str], None]
    failed: Callable[[str], None]
    refused: Callable[[str], None]
    """The broker belongs to somebody else; the thread has ended."""
    died: Callable[[BaseException], None]
    """The thread has failed by an error of its own, and begins anew: that says nothing of the broker."""
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
    sent: float = msgspec.field(default_factory=time.monotonic)


class FluxThread(threading.Thread):
    """Connects, runs the reactor until the connection breaks, and connects again.

    Args:
        uri: the instance, as ``flux.Flux()`` takes it.
        broker_above: the broker whose initial program this process is; from any other the environment that jobs
            inherit is asked for.
        loop: where results and callbacks go.
        callbacks: what to tell.
        address: where this server listens, for another one that is refused because of it.
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
        self._loop = loop
        self._callbacks = callbacks
        self._stopping = False
        self._ended = ""
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._inbox: deque[_Command] = deque()
        self._waking = self._woken = False
        self._outbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._posted = False
        self._pending: set[asyncio.Future[Any]] = set()
        self._handle: Any = None
        self._reason = ""
        self._up: Broker | None = None
        self._used = False
        self._streams: dict[asyncio.Future[Any], Any] = {}
        self._held = False
        self._unanswered: dict[asyncio.Future[Any], float] = {}  # on the event loop
        self._late: dict[asyncio.Future[Any], asyncio.Future[Any]] = {}  # on the event loop
        self.reached = False
        """Whether a broker has ever taken a connection."""
        self.starting = False
        """Whether the last try has found a broker that still starts."""
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

        They get :class:`ResponseTimeout`, whose ``result`` tells when the answer comes after all.
        """
        for future, sent in list(self._unanswered.items()):
            if sent >= sent_before:
                break
            del self._unanswered[future]
            if not future.done():
                late = self._late[future] = self._loop.create_future()
                late.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody has to look
                future.set_exception(ResponseTimeout(detail, late))
        if len(self._late) > _MOST_LATE and not self._inbox:
            self.begin_again("a service of the broker does not answer")  # their futures end with the connection

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

            if future.cancelled() or future in self._streams:
                self._send(_Command(stop, lambda _: None, self._loop.create_future()))

    @property
    def stuck(self) -> float:
        """How long the thread has not looked at what was sent to it, in seconds; only of use while connected."""
        try:
            return time.monotonic() - self._inbox[0].sent
        except IndexError:
            return 0.0

    def _send(self, command: _Command) -> None:
        self._inbox.append(command)
        if self._ended:  # set before the thread emptied the inbox for the last time: no command is missed by both
            self._fail_pending(self._ended)
            return
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Wake the thread once for all commands of this turn of the loop: each wake-up is a fight for the GIL."""
        self._waking = False
        if not self._woken:
            self._woken = True
            os.eventfd_write(self._wake_fd, 1)

    def begin_again(self, reason: str = "the history is read again") -> None:
        """End the connection and make another one."""

        def leave(handle: Any) -> None:
            self._reason = reason
            handle.reactor_stop()

        self.ask(leave, lambda _: None)

    def stop(self) -> None:
        """Leave the reactor and end the thread."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)

    # -------------------------------------------------------------------------------------- in the Flux thread

    def run(self) -> None:
        """Keep a connection until asked to stop; an error of our own ends a connection, not the thread."""
        delay = _FIRST_RETRY
        while not self._stopping:
            self._used = False
            try:
                self._connection()
            except PermissionError as exc:  # another try would be made by the same user
                self._post(self._callbacks.refused, _words(exc))
                self._reason = _words(exc)
                break
            except OSError as exc:
                self._disconnect()
                self._reason = _words(exc)
                self.starting = exc.errno == errno.EAGAIN
                self._post(self._callbacks.failed, self._reason)
            except Exception as exc:
                self._disconnect()
                self._reason = f"{type(exc).__name__}: {exc}"
                if self._used:
                    self._post(self._callbacks.down, self._reason)
                self._post(self._callbacks.died, exc)
            self._handle = None
            self._fail_pending(self._reason or "there is no connection")
            if not self._stopping:
                delay = _FIRST_RETRY if self._used else delay  # what was never in use must not be asked in a tight loop
                select.select([self._wake_fd], [], [], delay)
                self._drain_wake()
                delay = min(delay * 2, _LONGEST_RETRY)
        self._ended = self._reason or "the server is stopping"
        self._fail_pending(self._ended)

    def _disconnect(self) -> None:
        """Let go of a connection that could not be used: it ends when the collector finds it, and has the lease."""
        handle, self._handle = self._handle, None
        if handle is not None:
            lease.drop(handle)

    def _connection(self) -> None:
        """Connect, and work until the connection breaks.

        Raises:
            OSError: there is no connection to be had.
        """
        self._reason = ""
        self._session(self._connect())

    def _connect(self) -> Broker:
        try:
            self._handle = flux.Flux(self._uri)
            self.reached = True
            self.heard = time.monotonic()
        except PermissionError as exc:
            raise PermissionError(exc.errno, wrong_uid_message(socket_owner(self._uri))) from exc
        return handshake(self._handle, self._broker_above, self._address)

    def _session(self, broker: Broker) -> None:
        """Run the reactor until the connection breaks or the thread is stopped."""
        handle = self._handle
        watcher = handle.fd_watcher_create(self._wake_fd, self._on_wake, events=flux.constants.FLUX_POLLIN)
        watcher.start()
        looking = handle.timer_watcher_create(_LOOK, self._look, repeat=_LOOK)
        looking.start()
        self._held = False
        leaseholder = lease.answer(handle)
        self._up = broker
        try:
            following = handle.rpc(_JOURNAL, {"full": True}, 0, flux.constants.FLUX_RPC_STREAMING)
            following.then(self._on_journal)
            os.eventfd_write(self._wake_fd, 1)  # commands may have gathered meanwhile
            handle.reactor_run()
        except OSError as exc:
            self._reason = self._reason or _words(exc)
        finally:
            for each in (watcher, looking, leaseholder):
                each.stop()
                each.destroy()
            lease.drop(handle)
        if not self._stopping:
            tell = self._callbacks.down if self._used else self._callbacks.failed
            self._post(tell, self._reason or "the connection was closed")

    def _on_journal(self, rpc: Any) -> None:
        self.heard = time.monotonic()
        try:
            text = _payload(rpc)
        except OSError as exc:
            if self._held and exc.errno == errno.ENODATA:
                return
            self._reason = f"the job manager's journal ended: {_words(exc)}"
            # Never begun, or ended because the job manager was unloaded: nobody would notice a broken connection
            # now, and no event would come. So let go of it, and try again from the start.
            self._handle.reactor_stop()
            return
        if self._up is not None:
            self._post(self._callbacks.up, self._up)
            self._up, self._used = None, True
        try:
            self._post(self._callbacks.events, journal.decode(text))
        except Exception as exc:  # one event, whatever it holds, must not end the journal of all jobs
            log.error("an event cannot be read", reason=f"{type(exc).__name__}: {exc}")
        raw.flux_future_reset(rpc.handle)
        # A long history waits in the broker, which has it anyway, rather than in our memory. Only for a moment at
        # a time: commands wait behind it.
        ahead = min(_AHEAD, max(_LEAST_AHEAD, _AHEAD_BYTES // len(text)))
        if len(self._outbox) + self._callbacks.backlog() > _TOO_FAR:
            self._let_go(rpc)
        pause = time.monotonic() + _PAUSE
        while len(self._outbox) + self._callbacks.backlog() > ahead and time.monotonic() < pause:
            time.sleep(_PAUSE / 25)

    def _let_go(self, journal: Any) -> None:
        """Follow the journal no longer until what came of it is worked on; then read its history again.

        The store takes nothing, it seems. What the instance goes on to tell would fill our memory, or the broker's.
        """
        if not self._held:
            self._held = True
            self._post(self._callbacks.interrupted)
            log.warning("the journal is not followed: too much of it waits to be stored")
            request = {"matchtag": raw.flux_rpc_get_matchtag(journal.handle)}
            self._handle.rpc(f"{_JOURNAL}-cancel", request, 0, flux.constants.FLUX_RPC_NORESPONSE)

    def _look(self, *_: Any) -> None:
        """Connect anew when all that came of a journal that is not followed has been worked on."""
        if self._held and not self._outbox and not self._callbacks.backlog():
            self._reason = "the history is read again"
            self._handle.reactor_stop()

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
            except Exception as exc:  # what cannot be sent is the fault of this one request
                self._resolve(future, None, exc)
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
            self._streams.pop(command.future, None)
            self._resolve(command.future, None, None if exc.errno == errno.ENODATA else exc)
            return
        except Exception as exc:  # an answer that is not what the protocol says ends this stream alone
            self._streams.pop(command.future, None)
            self._resolve(command.future, None, OSError(errno.EPROTO, f"unexpected answer: {exc}"))
            return
        self._post(self._hand_out, command, item)
        raw.flux_future_reset(rpc.handle)

    def _on_answer(self, rpc: Any, finish: Finish[Any], future: asyncio.Future[Any]) -> None:
        self.heard = time.monotonic()
        try:
            self._resolve(future, finish(rpc), None)
        except OSError as exc:
            self._resolve(future, None, OSError(exc.errno, rpc.error_string() or exc.strerror))
        except Exception as exc:  # an answer that is not what the protocol says
            self._resolve(future, None, OSError(errno.EPROTO, f"unexpected answer: {exc}"))
        finally:
            _drop(rpc)

    def _resolve(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        self._pending.discard(future)
        self._post(self._settle, future, value, error)

    def _fail_pending(self, reason: str) -> None:
        """Answer what waits for Flux and what has not been sent; the loop may go on to add to the inbox meanwhile."""
        error = Unavailable(f"The connection to the instance is lost: {reason}")
        self._streams.clear()
        while True:
            try:
                future = self._pending.pop() if self._pending else self._inbox.popleft().future
            except (IndexError, KeyError):  # emptied, by the other thread perhaps
                return
            self._post(self._settle, future, None, error)

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

    def _hand_out(self, command: _Command, item: Any) -> None:
        """Run on the event loop: give a stream's item to its reader, and end the stream of one that cannot take it."""
        if command.future.done() or command.take is None:
            return
        try:
            command.take(item)
        except Exception as exc:
            command.future.set_exception(exc)  # the reader's own error: it waits for this future

    def _deliver(self) -> None:
        """Run on the event loop: hand out all that has gathered; what one callback cannot take, the others get."""
        self._posted = False
        while self._outbox:
            function, args = self._outbox.popleft()
            try:
                function(*args)
            except Exception as exc:
                log.exception("what Flux has sent could not be handed out", to=function.__qualname__, reason=str(exc))


def _payload(rpc: Any) -> bytes:
    """Return an answer's JSON; ``RPC.get_str()`` looks up the handle each time, which shows at a thousand a second."""
    text = ffi.new("char *[1]")
    raw.flux_rpc_get(rpc.handle, text)
    return bytes(ffi.string(text[0]))


def _drop(rpc: Any) -> None:
    """Free an answer now, and what it was made into: call it at the end of a continuation.

    flux-python's future refers to itself by its ``cb_handle``. Until the cycle collector comes by, which counts
    objects, not bytes, such a cycle keeps the message and, by its arguments, the result: 30 MB of a log of 36 MB.
    """
    rpc.handle = None
    rpc.then_args = ()
    rpc.cb_handle = None


def _words(exc: OSError) -> str:
    return exc.strerror or str(exc)
