"""What ``serve`` is in a follower's pod: it waits for the end of the pod's own broker, and exits with 0.

It must not leave earlier: a pod with a container that has ended is not ready, and a headless Service takes its name out
of DNS. Nor later: the Job is complete only when every container of every pod has ended. And it must not take a crash
for the end: the Flux Operator starts a follower's broker again 15 s after it has failed.

A broker that exits with 0 is one whose lead has left RUN in order. So the lead is asked for its states by way of the
follower's own broker, with two requests that are written here byte by byte (RFC 3, and what
src/common/librouter/sendfd.c puts before each message): the Flux bindings would take five times the memory.

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

from sidecar.options import Follower

_FIRST_POLL, _LONGEST_POLL = 0.1, 1.0
_MAGIC, _PROTO_MAGIC, _PROTO_VERSION = 0xFFEE0012, 0x8E, 1
_REQUEST, _ROUTE_AND_TOPIC, _STREAMING = 1, 0x09, 0x40
_ANY, _LEAD = 0xFFFFFFFF, 0  # node ids
_NOBODY = 0xFFFFFFFF  # the broker puts the uid of whoever is at the other end in its place
_PROTO = struct.Struct(">BBBBIIII")  # magic, version, type, flags, userid, rolemask, nodeid or errno, matchtag
_RUNS, _LEADS_STATES = 1, 2  # matchtags


def run(role: Follower) -> None:
    """Return when the broker of this pod has ended and will not come back; SIGTERM and SIGINT exit with 0 at once."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    _say(f"pod {role.index} is a follower: waiting for the end of the broker at {role.socket}; the lead's pod serves")
    deadline: float | None = None
    while (connection := _connect(role.socket, deadline)) is not None:
        with connection:
            if _ended_in_order(connection, role.socket):
                _say("the broker has ended, and so has the lead: leaving")
                time.sleep(role.linger)
                return
        _say(f"the broker has gone without its lead: waiting {role.wait:g} s for another one")
        deadline = time.monotonic() + role.wait
    _say("no other broker has come: leaving")


def _connect(path: str, deadline: float | None) -> socket.socket | None:
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
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_POLL)
    return None


def _ended_in_order(connection: socket.socket, path: str) -> bool:
    """Read until the broker has gone; return whether the lead had left RUN before.

    Where the lead may not be asked (another uid than the broker's), a broker that has put its socket away counts as
    ended in order: one that is killed does not.
    """
    states, may_ask = 0, True
    _send(connection, b"state-machine.wait", _RUNS)
    for tag, error in _answers(connection):
        if tag == _RUNS:  # before its own RUN a broker passes nothing on to the lead; without one it never will
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


def _answers(connection: socket.socket) -> Iterator[tuple[int, int]]:
    """Return matchtag and errno of each answer, until the connection ends."""
    received = b""
    while True:
        try:
            chunk = connection.recv(4096)
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
    print(f"flux-sidecar: {text}", file=sys.stderr, flush=True)
