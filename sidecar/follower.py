"""``serve`` in a follower's pod: wait for the end of the pod's broker, and exit with 0.

``attend`` does the same for a server that is the broker's initial program, and so does not run in a follower's pod. In
the lead's pod it waits until the instance runs; then that server takes over.

The process must not exit earlier: a pod with a container that has exited is not ready, and a headless Service removes
its name from DNS. It must not exit later: the Job is complete only when every container of every pod has exited. And it
must not take a crash for the end: the Flux Operator restarts a follower's broker 15 s after a failure.

A broker exits with 0 after its lead has left RUN in order. So the process requests the states of the lead
through the follower's broker, by two messages that are encoded here (RFC 3, and the framing of
src/common/librouter/sendfd.c): the Flux bindings would need five times the memory.

While there is no instance, and with an end file, the process checks the Job from time to time, because an instance may
never start (:mod:`sidecar.cluster.outlook`).

This module is loaded before everything else; every pod pays for its imports.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator

from sidecar.config.early import FollowerRole
from sidecar.runtime import termination
from sidecar.runtime.log_writer import log_line

_FIRST_POLL, _LONGEST_POLL = 0.1, 1.0  # seconds
_FIRST_CHECK, _LONGEST_CHECK = 10.0, 60.0  # seconds between checks of the Job; a check takes a second of CPU time
_CHECK_TIMEOUT = 60.0  # seconds; a check may wait for a resolver that hangs
_OVER = 3  # exit code of sidecar.cluster.outlook
_MAGIC, _PROTO_MAGIC, _PROTO_VERSION = 0xFFEE0012, 0x8E, 1
_REQUEST, _ROUTE_AND_TOPIC, _STREAMING = 1, 0x09, 0x40
_ANY, _LEAD = 0xFFFFFFFF, 0  # node ids
_UNKNOWN_UID = 0xFFFFFFFF  # the broker replaces it by the uid of the client
_PROTO = struct.Struct(">BBBBIIII")  # magic, version, type, flags, userid, rolemask, nodeid or errno, matchtag
_RUN, _STATES = 1, 2  # matchtags


def run(role: FollowerRole) -> None:
    """Return when this pod's broker has ended and will not be restarted; exit with 0 on a signal to stop.

    In the lead's pod: return when the instance runs. If the end file says that the pod's work is done, exit with the
    code in the file.
    """
    for number in termination.STOP_SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
    if termination.queued_signals():
        return
    check = _JobCheck(role)
    check.exit_if_over()
    try:
        if role.index == 0:
            _await_instance(role, check)
        else:
            _await_end(role, check)
    finally:
        check.cancel()


def _await_end(role: FollowerRole, check: _JobCheck) -> None:
    log_line(
        f"pod {role.index} is a follower: waiting for the end of the broker at {role.socket}; the lead's pod serves"
    )
    deadline: float | None = None
    while (connection := _connect(role.socket, deadline, check)) is not None:
        with connection:
            if _ended_in_order(connection, role.socket, check):
                log_line("the broker and the lead have ended: exiting")
                time.sleep(role.linger)
                return
        log_line(f"the broker has ended without its lead: waiting {role.wait:g} s for another one")
        deadline = time.monotonic() + role.wait
    log_line("no other broker has started: exiting")


class _JobCheck:
    """Checks the Job from time to time, in a separate process that the follower does not wait for.

    The follower calls this object at least once a second while it waits.
    """

    def __init__(self, role: FollowerRole) -> None:
        self._role = role
        self._pause = _FIRST_CHECK
        self._next = time.monotonic() + self._pause
        self._pid = 0
        self._deadline = 0.0

    def __call__(self) -> None:
        if self._pid:
            self._poll()
        elif self._role.end_file and time.monotonic() >= self._next:
            argv = [sys.executable, "-P", "-m", "sidecar.cluster.outlook", str(self._role.index), self._role.end_file]
            self._pid = os.spawnv(os.P_NOWAIT, sys.executable, argv)  # noqa: S606 - a module of this program
            self._deadline = time.monotonic() + _CHECK_TIMEOUT

    def _poll(self) -> None:
        """Handle the end of the process."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            if time.monotonic() > self._deadline:
                log_line(f"a check of the Job has not ended within {_CHECK_TIMEOUT:g} s; it will be retried")
                self.cancel()
            return
        self._schedule()
        if os.waitstatus_to_exitcode(status) == _OVER:
            self.exit_if_over()

    def _schedule(self) -> None:
        self._pid = 0
        self._pause = min(2 * self._pause, _LONGEST_CHECK)
        self._next = time.monotonic() + self._pause

    def cancel(self) -> None:
        """Kill the process of a running check."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._schedule()

    def exit_if_over(self) -> None:
        """Exit with the code in the end file, if the file exists."""
        try:
            with open(self._role.end_file, encoding="utf-8", errors="replace") as file:
                code, _, reason = file.read().strip().partition(" ")
        except OSError:  # it does not exist, or its disk fails: continue to wait for the broker
            return
        log_line(reason)
        time.sleep(self._role.linger)
        sys.exit(int(code) if code.isdecimal() and len(code) < 10 else 1)


def _await_instance(role: FollowerRole, check: _JobCheck) -> None:
    while (connection := _connect(role.socket, None, check)) is not None:
        with connection:
            connection.settimeout(_LONGEST_POLL)
            _send(connection, b"state-machine.wait", _RUN)
            if any(tag == _RUN and not error for tag, error in _responses(connection, check)):
                return
        time.sleep(_LONGEST_POLL)


def _connect(path: str, deadline: float | None, check: _JobCheck) -> socket.socket | None:
    """Connect to the broker, and retry until the deadline.

    Args:
        path: of the broker's socket.
        deadline: on the clock of :func:`time.monotonic`; None: retry forever.
        check: called before each retry.

    Returns:
        None after the deadline.
    """
    pause, logged = _FIRST_POLL, ""
    while deadline is None or time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            refused = connection.recv(1)
            if refused == b"\0":
                return connection
            reason = f"the broker refuses uid {os.getuid()}" if refused else "the broker is shutting down"
        except OSError as exc:
            reason = exc.strerror or str(exc)
        connection.close()
        if reason != logged:
            logged = reason
            log_line(f"no broker at {path} yet: {reason}")
        check()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL)
    return None


def _ended_in_order(connection: socket.socket, path: str, check: _JobCheck) -> bool:
    """Read until the broker closes the connection; return whether the lead had left RUN before.

    If requests to the lead are not permitted (another uid than the broker's), a broker that has removed its socket
    counts as ended in order: a killed broker does not remove it.
    """
    states, permitted = 0, True
    connection.settimeout(_LONGEST_POLL)
    _send(connection, b"state-machine.wait", _RUN)
    for tag, error in _responses(connection, check):
        if tag == _RUN:  # before RUN the broker forwards nothing to the lead
            connection.settimeout(None)
            check.cancel()  # there is an instance
            if not error:
                _send(connection, b"state-machine.monitor", _STATES, nodeid=_LEAD, flags=_STREAMING)
        elif error == errno.EPERM:
            permitted = False
        elif not error:
            states += 1  # the first response is the current state, RUN
    return states > 1 or (not permitted and not os.path.exists(path))


def _send(connection: socket.socket, topic: bytes, tag: int, *, nodeid: int = _ANY, flags: int = 0) -> None:
    """Send a request without payload. The empty frame ends its route, which begins at the broker."""
    proto = _PROTO.pack(_PROTO_MAGIC, _PROTO_VERSION, _REQUEST, _ROUTE_AND_TOPIC | flags, _UNKNOWN_UID, 0, nodeid, tag)
    message = b"".join(bytes([len(frame)]) + frame for frame in (b"", topic, proto))
    try:
        connection.sendall(struct.pack("=I", _MAGIC) + struct.pack(">I", len(message)) + message)
    except ConnectionError:
        return  # the broker has ended; the next read reports it


def _responses(connection: socket.socket, check: _JobCheck) -> Iterator[tuple[int, int]]:
    """Yield matchtag and errno of each response until the connection ends; check the Job on a timeout."""
    received = b""
    while True:
        try:
            chunk = connection.recv(4096)
        except TimeoutError:
            check()
            continue
        except ConnectionError:
            return
        if not chunk:
            return
        received += chunk
        while len(received) >= 8:
            end = 8 + int(struct.unpack_from(">I", received, 4)[0])
            if len(received) < end:
                break
            *_, error, tag = _PROTO.unpack_from(received, end - _PROTO.size)  # the last frame
            received = received[end:]
            yield tag, error
