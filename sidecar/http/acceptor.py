"""Accepts connections from listening sockets, also where there are no descriptors left for a while.

asyncio's own server, of Python 3.11, logs each failed ``accept`` as many times as its backlog is long, and tries again
as often at once: thousands of lines a second, and no time for the connections that there are.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

log = structlog.get_logger("server")

_AT_ONCE = 64  # connections that are accepted before the loop does something else
_PAUSE = 0.5  # seconds without a further try when there are no descriptors
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESERVE = 32  # descriptors for jobs, launchers, files and the broker, beside those that are open at the start
_LEAST = 4  # connections


class Acceptor:
    """Accepts connections.

    Args:
        sockets: bound, and listening from now on.
        factory: makes the protocol of each connection.
        backlog: how many connections may wait in the kernel.
    """

    def __init__(self, sockets: Iterable[socket.socket], factory: Callable[[], asyncio.Protocol], backlog: int) -> None:
        self._sockets = list(sockets)
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[object]] = set()
        self._retries: dict[socket.socket, asyncio.TimerHandle] = {}
        self._scarce = False
        for each in self._sockets:
            each.setblocking(False)
            each.listen(backlog)
            self._loop.add_reader(each.fileno(), self._accept, each)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause(listening, exc)
                return
            if self._scarce:
                self._scarce = False
                log.info("connections are accepted again")
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError as exc:  # the peer has gone already
            connection.close()
            log.debug("a connection was lost before its first byte", error=str(exc))

    def _pause(self, listening: socket.socket, exc: OSError) -> None:
        """Accept nothing for a moment: the kernel goes on to say that a connection waits, and there is no room."""
        if exc.errno not in _SCARCE:
            log.error("a connection could not be accepted", error=str(exc))
        elif not self._scarce:
            self._scarce = True
            log.error("no connection can be accepted until others end", error=str(exc))
        self._loop.remove_reader(listening.fileno())
        self._retries[listening] = self._loop.call_later(_PAUSE, self._retry, listening)

    def _retry(self, listening: socket.socket) -> None:
        del self._retries[listening]
        self._loop.add_reader(listening.fileno(), self._accept, listening)

    def close(self) -> None:
        """Accept no more; connections that there are go on."""
        for retry in self._retries.values():
            retry.cancel()
        self._retries.clear()
        for each in self._sockets:
            self._loop.remove_reader(each.fileno())
            each.close()
        self._sockets.clear()


def connections_allowed(wanted: int) -> int:
    """Let this process have as many open files as it may, and return how many connections that leaves room for.

    Args:
        wanted: how many there should be (``--max-connections``).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return wanted
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    allowed = max(_LEAST, hard - in_use - _RESERVE)
    if allowed < wanted:
        log.warning("--max-connections is lowered: each connection is an open file", to=allowed, open_files=hard)
    return min(wanted, allowed)
