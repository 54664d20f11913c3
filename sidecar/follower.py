"""What ``serve`` is in a follower's pod: it waits for the end of the pod's own broker, and exits with 0.

``attend`` is the same where the server is the broker's initial program, and so is in no follower's pod. In the lead's
pod it stands in for that server until the instance runs.

It must not leave earlier: a pod with a container that has ended is not ready, and a headless Service takes its name out
of DNS. Nor later: the Job is complete only when every container of every pod has ended. And it must not take a crash
for the end: the Flux Operator starts a follower's broker again 15 s after it has failed.

A broker that exits with 0 is one whose lead has left RUN in order. So the lead is asked for its states by way of the
follower's own broker, with two requests that are written here byte by byte (RFC 3, and what
src/common/librouter/sendfd.c puts before each message): the Flux bindings would take five times the memory.

While there is no instance to wait for, the Job is looked at from time to time, with an end file: there may never be one
(:mod:`sidecar.outlook`).

This module is loaded before everything else; what it imports is paid for in every pod.
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
from sidecar.runtime import exit as leaving
from sidecar.runtime.log_writer import say

_FIRST_POLL, _LONGEST_POLL = 0.1, 1.0
_FIRST_LOOK, _LONGEST_LOOK = 10.0, 60.0  # seconds between looks at the Job; one takes a second of CPU time
_LOOK_TAKES = 60.0  # seconds that a look may take; it may wait for a resolver that hangs
_OVER = 3  # exit code of sidecar.outlook
_MAGIC, _PROTO_MAGIC, _PROTO_VERSION = 0xFFEE0012, 0x8E, 1
_REQUEST, _ROUTE_AND_TOPIC, _STREAMING = 1, 0x09, 0x40
_ANY, _LEAD = 0xFFFFFFFF, 0  # node ids
_NOBODY = 0xFFFFFFFF  # the broker puts the uid of whoever is at the other end in its place
_PROTO = struct.Struct(">BBBBIIII")  # magic, version, type, flags, userid, rolemask, nodeid or errno, matchtag
_RUNS, _LEADS_STATES = 1, 2  # matchtags


def run(role: FollowerRole) -> None:
    """Return when the broker of this pod has ended and will not come back; a signal to stop exits with 0 at once.

    In the lead's pod: return when the instance runs. Where the end file says that this pod's part is over, exit with
    what it says.
    """
    for number in leaving.ORDERLY:
        signal.signal(number, lambda *_: sys.exit(0))
    if leaving.kept_signals():
        return
    look = _Look(role)
    look.leave_if_over()
    try:
        if role.index == 0:
            _await_instance(role, look)
        else:
            _await_end(role, look)
    finally:
        look.end()


def _await_end(role: FollowerRole, look: _Look) -> None:
    _say(f"pod {role.index} is a follower: waiting for the end of the broker at {role.socket}; the lead's pod serves")
    deadline: float | None = None
    while (connection := _connect(role.socket, deadline, look)) is not None:
        with connection:
            if _ended_in_order(connection, role.socket, look):
                _say("the broker has ended, and so has the lead: leaving")
                time.sleep(role.linger)
                return
        _say(f"the broker has gone without its lead: waiting {role.wait:g} s for another one")
        deadline = time.monotonic() + role.wait
    _say("no other broker has come: leaving")


class _Look:
    """Looks at the Job from time to time, in a process of its own that nothing here waits for.

    It is called whenever there is nothing else to do, once a second at least.
    """

    def __init__(self, role: FollowerRole) -> None:
        self._role = role
        self._pause = _FIRST_LOOK
        self._next = time.monotonic() + self._pause
        self._pid = 0
        self._until = 0.0

    def __call__(self) -> None:
        if self._pid:
            self._see()
        elif self._role.end_file and time.monotonic() >= self._next:
            argv = [sys.executable, "-P", "-m", "sidecar.cluster.outlook", str(self._role.index), self._role.end_file]
            self._pid = os.spawnv(os.P_NOWAIT, sys.executable, argv)  # noqa: S606 - this program's own module
            self._until = time.monotonic() + _LOOK_TAKES

    def _see(self) -> None:
        """See what has come of the process."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            if time.monotonic() > self._until:
                _say(f"a look at the Job has not ended within {_LOOK_TAKES:g} s: it is tried again later")
                self.end()
            return
        self._ended()
        if os.waitstatus_to_exitcode(status) == _OVER:
            self.leave_if_over()

    def _ended(self) -> None:
        self._pid = 0
        self._pause = min(2 * self._pause, _LONGEST_LOOK)
        self._next = time.monotonic() + self._pause

    def end(self) -> None:
        """End a process that looks: what it finds is not wanted any more."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._ended()

    def leave_if_over(self) -> None:
        """Exit with what the end file says, where there is one."""
        try:
            with open(self._role.end_file, encoding="utf-8", errors="replace") as file:
                code, _, reason = file.read().strip().partition(" ")
        except OSError:  # it is not there, or its disk is in trouble: this waits for the broker all the same
            return
        _say(reason)
        time.sleep(self._role.linger)
        sys.exit(int(code) if code.isdecimal() and len(code) < 10 else 1)


def _await_instance(role: FollowerRole, look: _Look) -> None:
    while (connection := _connect(role.socket, None, look)) is not None:
        with connection:
            connection.settimeout(_LONGEST_POLL)
            _send(connection, b"state-machine.wait", _RUNS)
            if any(tag == _RUNS and not error for tag, error in _answers(connection, look)):
                return
        time.sleep(_LONGEST_POLL)


def _connect(path: str, deadline: float | None, look: _Look) -> socket.socket | None:
    """Wait for a broker that listens; None when the deadline has passed (:func:`time.monotonic`; None: never)."""
    pause, told = _FIRST_POLL, ""
    while deadline is None or time.monotonic() < deadline:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(path)
            refused = connection.recv(1)
            if refused == b"\0":
                return connection
            reason = f"the broker refuses uid {os.getuid()}" if refused else "the broker is going"
        except OSError as exc:
            reason = exc.strerror or str(exc)
        connection.close()
        if reason != told:
            told = reason
            _say(f"no broker at {path} yet: {reason}")
        look()
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL)
    return None


def _ended_in_order(connection: socket.socket, path: str, look: _Look) -> bool:
    """Read until the broker has gone; return whether the lead had left RUN before.

    Where the lead may not be asked (another uid than the broker's), a broker that has put its socket away counts as
    ended in order: one that is killed does not.
    """
    states, may_ask = 0, True
    connection.settimeout(_LONGEST_POLL)
    _send(connection, b"state-machine.wait", _RUNS)
    for tag, error in _answers(connection, look):
        if tag == _RUNS:  # before its own RUN a broker passes nothing on to the lead; without one it never will
            connection.settimeout(None)
            look.end()  # there is an instance
            if not error:
                _send(connection, b"state-machine.monitor", _LEADS_STATES, nodeid=_LEAD, flags=_STREAMING)
        elif error == errno.EPERM:
            may_ask = False
        elif not error:
            states += 1  # the first answer is the state of now, which is RUN
    return states > 1 or (not may_ask and not os.path.exists(path))


def _send(connection: socket.socket, topic: bytes, tag: int, *, nodeid: int = _ANY, flags: int = 0) -> None:
    """Send a request without payload; the empty frame ends its route, which begins at the broker."""
    proto = _PROTO.pack(_PROTO_MAGIC, _PROTO_VERSION, _REQUEST, _ROUTE_AND_TOPIC | flags, _NOBODY, 0, nodeid, tag)
    message = b"".join(bytes([len(frame)]) + frame for frame in (b"", topic, proto))
    try:
        connection.sendall(struct.pack("=I", _MAGIC) + struct.pack(">I", len(message)) + message)
    except ConnectionError:
        return  # the broker has gone: who reads next is told so


def _answers(connection: socket.socket, look: _Look) -> Iterator[tuple[int, int]]:
    """Return matchtag and errno of each answer, until the connection ends; look at the Job when none comes in time."""
    received = b""
    while True:
        try:
            chunk = connection.recv(4096)
        except TimeoutError:
            look()
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


def _say(text: str) -> None:
    say(text)
