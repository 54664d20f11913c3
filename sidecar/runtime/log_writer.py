"""Write lines to standard error without ever blocking on its reader, or failing because of it.

A pipe without an active reader is full after some hundred lines, a reader may have exited, a disk may be full. A
handler, a task or a signal handler that logs must not hang or fail then. So a line is written immediately if possible.
Otherwise it is queued, within a limit, for a thread that writes; lines over the limit are counted and dropped.

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
    from collections.abc import Callable
    from typing import TextIO

_CHUNK = select.PIPE_BUF  # bytes that a pipe accepts as a whole when it is writable
_LIMIT = 1024 * 1024  # bytes in the queue
_POLL = 1000  # milliseconds


class LogWriter:
    """Writes lines to a file descriptor.

    Args:
        fd: None discards the lines.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd if fd is None else _nonblocking(fd)
        self._blocks = self.fd == fd
        self._lock = RLock()  # reentrant: a signal handler may log while this thread has the lock
        self._buffer = bytearray()
        self._queue: deque[bytes] = deque()
        self._size = 0
        self._draining = False
        self._lost = 0
        self.defer: Callable[[], bool] = lambda: False
        """Schedules :meth:`write_buffer` for the end of the event loop's iteration; returns whether it could."""

    def write(self, line: str) -> None:
        """Write a line, or queue it."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            self.write_buffer()
            self._put(data)

    def write_soon(self, line: str) -> None:
        """Write a line together with those of the same iteration of the event loop; in other threads at once."""
        self.buffer(line)
        if not self.defer():
            self.write_buffer()

    def buffer(self, line: str) -> bool:
        """Buffer a line, to be written together with the next ones: a system call per line costs more than the line.

        Returns:
            Whether it is the first one in the buffer: then the caller has to call :meth:`write_buffer` soon.
        """
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._lock:
            if len(self._buffer) + len(data) > _CHUNK:  # whole lines, so that other processes' lines do not split them
                self.write_buffer()
            self._buffer += data
            return len(self._buffer) == len(data)

    def write_buffer(self) -> None:
        """Write the buffered lines."""
        with self._lock:
            data, self._buffer = bytes(self._buffer), bytearray()
            if data:
                self._put(data)

    def _put(self, data: bytes) -> None:
        """Write lines, or queue them."""
        while data and not self._queue and self._write_now(data[:_CHUNK]):
            data = data[_CHUNK:]
        if not data or self.fd is None:
            return
        if self._size + len(data) > _LIMIT:
            self._lost += data.count(b"\n")
            return
        self._queue.append(data)
        self._size += len(data)
        if not self._draining:
            self._draining = True
            start_new_thread(self._drain, ())

    #: The methods that :mod:`structlog` calls.
    msg = warning = warn = error = critical = fatal = failure = exception = log = write
    debug = info = write_soon

    @property
    def lost(self) -> int:
        """Number of lines that were dropped since the last access."""
        with self._lock:
            lost, self._lost = self._lost, 0
            return lost

    def file(self) -> int:
        """Return a file descriptor for modules that write directly, such as :mod:`faulthandler`."""
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC) if self.fd is None else self.fd

    def flush(self, within: float) -> None:
        """Wait until the queue is written, at most ``within`` seconds."""
        deadline = time.monotonic() + within
        self.write_buffer()
        while self._queue and time.monotonic() < deadline:
            time.sleep(0.01)

    def _write_now(self, chunk: bytes) -> bool:
        """Write up to PIPE_BUF bytes; return False if the write would block."""
        if self.fd is None:
            return True
        try:
            if self._blocks and not _writable(self.fd, 0):
                return False
            os.write(self.fd, chunk)
        except BlockingIOError:  # another process has filled the pipe in the meantime
            return False
        except OSError:  # the reader has exited, or the disk is full
            self._lost += chunk.count(b"\n")
        return True

    def _drain(self) -> None:
        """Write the queue, in a thread, until it is empty."""
        while True:
            assert self.fd is not None  # noqa: S101 - otherwise nothing is queued
            _writable(self.fd, _POLL)
            with self._lock:
                while self._queue and self._write_now(self._queue[0][:_CHUNK]):
                    first = self._queue.popleft()
                    self._size -= min(_CHUNK, len(first))
                    if len(first) > _CHUNK:
                        self._queue.appendleft(first[_CHUNK:])
                if not self._queue:
                    self._draining = False
                    return


def _writable(fd: int, timeout: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(timeout))  # also on an error, which the write reports


def _nonblocking(fd: int) -> int:
    """Return a non-blocking descriptor of a pipe. A flag on ``fd`` would affect other processes too.

    A pipe of another user cannot be opened again. Then a write can still block if another process fills the pipe after
    the check.
    """
    try:
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return fd
    return fd


def writer_to(stream: TextIO | None) -> LogWriter:
    """Return a writer to a standard stream; it discards lines if the process was started without that stream."""
    try:
        return LogWriter(stream.fileno() if stream else None)
    except (OSError, ValueError):
        return LogWriter(None)


STDERR = writer_to(sys.stderr)

_as_json = False


def use_json(enabled: bool) -> None:
    """Make :func:`log_line` write JSON, or text."""
    global _as_json
    _as_json = enabled


def log_line(text: str, level: str = "info") -> None:
    """Log a line without a logger: in a follower's pod, and at the start and the end of a server."""
    if not _as_json:
        STDERR.write(f"flux-sidecar: {text}")
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    STDERR.write(f'{{"event":{_quoted(text)},"level":"{level}","timestamp":"{now}"}}')


def _quoted(text: str) -> str:
    """Return a JSON string; the json module would be a tenth of everything that a follower loads."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character.isprintable() and character not in '"\\':
        return character
    return f"\\u{min(ord(character), 0xFFFD):04x}"
