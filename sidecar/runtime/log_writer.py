"""Write lines to standard error, and never wait for its reader, nor fail because of it.

The log is a peer like any other: a pipe whose reader takes nothing fills within some hundred lines, a reader may have
gone, a disk may be full. A handler, a task or the handler of a signal that logs must not hang or fail of that. So a
line is written where it can be written at once. Otherwise it waits, within a bound, for a thread that writes what
waits; what there is no room for is counted.

This module imports next to nothing: the follower and the end of the process use it.
"""

from __future__ import annotations

import os
import select
import stat
import sys
import time
from _thread import RLock, start_new_thread
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_PIECE = select.PIPE_BUF  # bytes that a pipe which can be written takes whole
_MOST = 1024 * 1024  # bytes that wait
_LOOK = 1000  # milliseconds


class LogWriter:
    """Writes lines to a descriptor.

    Args:
        fd: where to; None where there is nothing to write to.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd if fd is None else _not_blocking(fd)
        self._blocks = self.fd == fd
        self._lock = RLock()  # a signal's handler may log while this thread holds it
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._draining = False
        self._lost = 0

    def write(self, line: str) -> None:
        """Write a line, or keep it until it can be written."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            while data and not self._waiting and self._write_now(data[:_PIECE]):
                data = data[_PIECE:]
            if not data or self.fd is None:
                return
            if self._size + len(data) > _MOST:
                self._lost += 1
                return
            self._waiting.append(data)
            self._size += len(data)
            if not self._draining:
                self._draining = True
                start_new_thread(self._drain, ())

    #: The names that :mod:`structlog` calls.
    msg = debug = info = warning = warn = error = critical = fatal = failure = exception = log = write

    @property
    def lost(self) -> int:
        """How many lines could not be written since this was asked last."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def file(self) -> int:
        """Return a descriptor for what writes by itself, such as :mod:`faulthandler`."""
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if self.fd is None else self.fd

    def flush(self, within: float) -> None:
        """Wait until what waits is written, for some seconds at most."""
        deadline = time.monotonic() + within
        while self._waiting and time.monotonic() < deadline:
            time.sleep(0.01)

    def _write_now(self, piece: bytes) -> bool:
        """Write up to PIPE_BUF bytes; return whether they are dealt with."""
        if self.fd is None:
            return True
        try:
            if self._blocks and not _writable(self.fd, 0):
                return False
            os.write(self.fd, piece)
        except BlockingIOError:  # another process has filled it meanwhile
            return False
        except OSError:  # its reader has gone, or its disk is full
            self._lost += 1
        return True

    def _drain(self) -> None:
        """Run in a thread: write what waits, until nothing does."""
        while True:
            assert self.fd is not None  # noqa: S101 - else nothing waits
            _writable(self.fd, _LOOK)
            with self._lock:
                while self._waiting and self._write_now(self._waiting[0][:_PIECE]):
                    first = self._waiting.popleft()
                    self._size -= min(_PIECE, len(first))
                    if len(first) > _PIECE:
                        self._waiting.appendleft(first[_PIECE:])
                if not self._waiting:
                    self._draining = False
                    return


def _writable(fd: int, timeout: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(timeout))  # an error counts: to write tells which


def _not_blocking(fd: int) -> int:
    """Return a descriptor of a pipe that does not block; others have theirs, which a flag would change too.

    Where the pipe is another user's it cannot be opened anew. Then only another process that fills it between the look
    and the write could block one.
    """
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return fd
    return fd


def to(stream: TextIO | None) -> LogWriter:
    """Return a writer to a standard stream; to nothing where the process was started without it."""
    try:
        return LogWriter(stream.fileno() if stream else None)
    except (OSError, ValueError):
        return LogWriter(None)


STDERR = to(sys.stderr)

_as_json = False


def write_json(wanted: bool) -> None:
    """Let :func:`say` write JSON from now on, or text."""
    global _as_json
    _as_json = wanted


def say(text: str, level: str = "info") -> None:
    """Write a line where no logger is: in the pod of a follower, before a server is configured, and at its end."""
    if not _as_json:
        STDERR.write(f"flux-sidecar: {text}")
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    STDERR.write(f'{{"event":{_quoted(text)},"level":"{level}","timestamp":"{now}"}}')


def _quoted(text: str) -> str:
    """Return a string of JSON; the module json would be a tenth of all that a follower loads."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character.isprintable() and character not in '"\\':
        return character
    return f"\\u{min(ord(character), 0xFFFD):04x}"
