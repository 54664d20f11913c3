"""Accept connections, also through a shortage of file descriptors.

In Python 3.11 asyncio's server repeats and logs a failed ``accept`` as many times as its backlog is long, thousands of
times a second, which leaves no time for the open connections.
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

_BATCH = 64  # connections accepted per iteration of the event loop
_RETRY = 0.5  # seconds between attempts during a shortage
_SHORTAGE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RESERVE = 32  # descriptors for jobs, launchers, files and the broker, beyond those open at the start
_MIN_CONNECTIONS = 4


class Acceptor:
    """Accept connections from listening sockets.

    Args:
        sockets: bound; they listen from now on.
        factory: returns the protocol of a new connection.
        backlog: connections that may wait in the kernel.
    """

    def __init__(self, sockets: Iterable[socket.socket], factory: Callable[[], asyncio.Protocol], backlog: int) -> None:
        self._sockets = list(sockets)
        self._factory = factory
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[object]] = set()
        self._retries: dict[socket.socket, asyncio.TimerHandle] = {}
        self._short = False
        for listening in self._sockets:
            listening.setblocking(False)
            listening.listen(backlog)
            self._loop.add_reader(listening.fileno(), self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(_BATCH):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                self._pause(listening, exc)
                return
            if self._short:
                self._short = False
                log.info("connections are accepted again")
            connection.setblocking(False)
            task = self._loop.create_task(self._connect(connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError as exc:  # the peer has disconnected
            connection.close()
            log.debug("a connection was lost before its first byte", error=str(exc))

    def _pause(self, listening: socket.socket, exc: OSError) -> None:
        """Stop accepting for a moment: the kernel would report the same waiting connection at once."""
        if exc.errno not in _SHORTAGE:
            log.error("a connection could not be accepted", error=str(exc))
        elif not self._short:
            self._short = True
            log.error("no connection can be accepted until others end", error=str(exc))
        self._loop.remove_reader(listening.fileno())
        self._retries[listening] = self._loop.call_later(_RETRY, self._resume, listening)

    def _resume(self, listening: socket.socket) -> None:
        del self._retries[listening]
        self._loop.add_reader(listening.fileno(), self._accept, listening)

    def close(self) -> None:
        """Close the listening sockets; open connections continue."""
        for retry in self._retries.values():
            retry.cancel()
        self._retries.clear()
        for listening in self._sockets:
            self._loop.remove_reader(listening.fileno())
            listening.close()
        self._sockets.clear()


def raise_descriptor_limit(max_connections: int) -> int:
    """Raise the process's limit of open files to its maximum, and return the connections that fit into it.

    Args:
        max_connections: the configured limit (``--max-connections``).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return max_connections
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    allowed = max(_MIN_CONNECTIONS, hard - in_use - _RESERVE)
    if allowed < max_connections:
        log.warning("--max-connections is lowered: each connection is an open file", to=allowed, open_files=hard)
    return min(max_connections, allowed)
