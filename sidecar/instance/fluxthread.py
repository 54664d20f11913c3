"""The one thread that owns the Flux handle and runs Flux's reactor.

flux-python has no asyncio, and watching ``flux_pollfd`` from an asyncio loop loses events. So the reactor runs here;
the loop hands it commands through a queue and an eventfd, and gets results back by ``call_soon_threadsafe``. Both
ways are coalesced: one wake-up carries everything that has gathered, which is what makes submits fast.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import select
import threading
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import flux
import flux.constants
import flux.kvs
import msgspec
from flux.core.inner import ffi, raw

from sidecar.errors import Unavailable
from sidecar.model import Environment, JobEvents, decode_events

T = TypeVar("T")
Start = Callable[[Any], Any]
Finish = Callable[[Any], T]

_FIRST_RETRY, _LONGEST_RETRY = 0.05, 2.0
_IDENTITY_KEY = "flux-sidecar.instance"
_BROKEN = (errno.EPIPE, errno.ECONNRESET)
_REXEC_STDOUT = 1  # src/common/libsubprocess/client.h


class Broker(msgspec.Struct):
    """What the broker says of itself when a connection is made."""

    version: str
    size: int
    pid: int
    hostname: str
    rc2_none: bool
    identity: str
    inherited: Environment | None


class Callbacks(msgspec.Struct):
    """What the thread tells, always on the event loop and in order."""

    up: Callable[[Broker], None]
    events: Callable[[JobEvents], None]
    down: Callable[[str], None]
    failed: Callable[[str], None]


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
        self._inbox: deque[tuple[Start, Finish[Any], asyncio.Future[Any]]] = deque()
        self._waking = self._woken = False
        self._outbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._posted = False
        self._pending: set[asyncio.Future[Any]] = set()
        self._handle: Any = None
        self._reason = ""
        self._owner: str | None = None
        self._up: Broker | None = None

    # --------------------------------------------------------------------------------------- on the event loop

    def call(self, start: Start, finish: Finish[T]) -> asyncio.Future[T]:
        """Run ``start(handle)`` in the Flux thread, and ``finish`` on the Flux future that it returns.

        Returns:
            A future with what ``finish`` returned, or the OSError that either raised.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._inbox.append((start, finish, future))
        if not self._waking:
            self._waking = True
            self._loop.call_soon(self._wake)
        return future

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
                self._handle = flux.Flux(self._uri)
                broker = self._introduce()
            except OSError as exc:
                words = _not_the_owner(self._owner) if isinstance(exc, PermissionError) else _words(exc)
                self._post(self._callbacks.failed, words)
                self._handle = None
            else:
                delay = _FIRST_RETRY
                self._session(broker)
            self._fail_pending(self._reason or "there is no connection")
            if not self._stopping:
                select.select([self._wake_fd], [], [], delay)
                self._drain_wake()
                delay = min(delay * 2, _LONGEST_RETRY)

    def _introduce(self) -> Broker:
        handle, self._owner = self._handle, None

        def attribute(name: str) -> str | None:
            try:
                return str(handle.attr_get(name))
            except FileNotFoundError:
                return None

        self._owner = attribute("security.owner")
        pid = int(attribute("broker.pid") or 0)
        return Broker(
            version=attribute("version") or "",
            size=int(attribute("size") or 0),
            pid=pid,
            hostname=attribute("hostname") or "",
            # It is set without a value, which attr.get calls missing; only the list of names tells.
            rc2_none="broker.rc2_none" in handle.rpc("attr.list").get()["names"],
            identity=_identity(handle),
            inherited=None if pid == self._broker_above else _remote_environment(handle),
        )

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
        finally:
            watcher.stop()
            watcher.destroy()
            self._handle = None
        if not self._stopping:
            tell = self._callbacks.down if self._up is None else self._callbacks.failed
            self._post(tell, self._reason or "the connection was closed")

    def _on_journal(self, rpc: Any) -> None:
        try:
            text = _payload(rpc)
        except OSError as exc:
            self._reason = f"the job manager's journal ended: {_words(exc)}"
            if isinstance(exc, PermissionError):
                self._reason = _not_the_owner(self._owner)
            # Never begun, or ended because the job manager was unloaded: nobody would notice a broken connection
            # now, and no event would come. So let go of it, and try again from the start.
            self._handle.reactor_stop()
            return
        if self._up is not None:
            self._post(self._callbacks.up, self._up)
            self._up = None
        self._post(self._callbacks.events, decode_events(text))
        raw.flux_future_reset(rpc.handle)

    def _on_wake(self, *_: Any) -> None:
        self._drain_wake()
        if self._stopping:
            self._handle.reactor_stop()
            return
        while self._inbox:
            start, finish, future = self._inbox.popleft()
            self._pending.add(future)
            try:
                start(self._handle).then(self._on_answer, finish, future)
            except OSError as exc:
                self._resolve(future, None, exc)
                if exc.errno in _BROKEN:
                    self._reason = _words(exc)
                    self._handle.reactor_stop()
                    return

    def _drain_wake(self) -> None:
        """Take the wake-up, and only then let the next command write another: in this order none is lost."""
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass  # nobody has written: this was the end of a pause
        finally:
            self._woken = False

    def _on_answer(self, rpc: Any, finish: Finish[Any], future: asyncio.Future[Any]) -> None:
        try:
            self._resolve(future, finish(rpc), None)
        except OSError as exc:
            self._resolve(future, None, OSError(exc.errno, rpc.error_string() or exc.strerror))
        except ValueError as exc:  # an answer that is not what the protocol says
            self._resolve(future, None, OSError(errno.EPROTO, f"unexpected answer: {exc}"))

    def _resolve(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        self._pending.discard(future)
        self._post(_settle, future, value, error)

    def _fail_pending(self, reason: str) -> None:
        waiting = [*self._pending, *(future for _, _, future in self._inbox)]
        self._pending.clear()
        self._inbox.clear()
        for future in waiting:
            self._post(_settle, future, None, Unavailable(f"The connection to the instance is lost: {reason}"))

    def _post(self, function: Callable[..., None], *args: Any) -> None:
        self._outbox.append((function, args))
        if not self._posted:
            self._posted = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop has closed: nobody is left to tell
                self._stopping = True

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


def _settle(future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if future.done():
        return  # the caller has given up
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


def _words(exc: OSError) -> str:
    return exc.strerror or str(exc)


def _not_the_owner(owner: str | None) -> str:
    return (
        f"this server runs as uid {os.getuid()}, the instance's owner is uid {owner or 'unknown'}: "
        "a guest may neither submit nor read the journal. Run the server as the owner."
    )


def _identity(handle: Any) -> str:
    """Return a name for this instance that lives as long as its jobs do: in its KVS.

    Job ids start anew in every instance, and a broker that restarts from its state directory goes on with the old
    ones; only the KVS knows which of the two has happened.
    """
    try:
        return str(flux.kvs.get(handle, _IDENTITY_KEY))
    except FileNotFoundError:
        identity = uuid.uuid4().hex
        flux.kvs.put(handle, _IDENTITY_KEY, identity)
        flux.kvs.commit(handle)
        return identity


def _remote_environment(handle: Any) -> Environment | None:
    """Ask rank 0 for the broker's environment and working directory; None when it does not tell."""
    command = {
        "cmdline": ["/bin/sh", "-c", "pwd -P && exec env -0"],
        "cwd": "/",
        "env": {},
        "opts": {},
        "channels": [],
    }
    del command["cwd"]  # the broker's own
    text = ""
    rpc = handle.rpc("rexec.exec", {"cmd": command, "flags": _REXEC_STDOUT}, 0, flux.constants.FLUX_RPC_STREAMING)
    try:
        while True:
            answer = json.loads(rpc.wait_for(5.0).get_str())
            if answer["type"] == "output":
                text += answer["io"].get("data", "")
            rpc.reset()
    except OSError as exc:
        if exc.errno != errno.ENODATA or "\n" not in text:  # that is how the stream ends
            return None
    cwd, _, variables = text.partition("\n")
    pairs = (entry.partition("=") for entry in variables.split("\0") if entry)
    return Environment({name: value for name, _, value in pairs}, cwd)
