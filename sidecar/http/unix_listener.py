"""Listen on a Unix socket, and restore its file if it is removed."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import structlog
from aiohttp import web

from sidecar.config.values import SettingsError
from sidecar.http.acceptor import Acceptor
from sidecar.http.connections import ConnectionLimiter
from sidecar.http.tcp_listener import Listener

log = structlog.get_logger("server")

_PROBE_TIMEOUT = 1.0  # seconds; a server with a full backlog is running
_MAX_PATH = 107  # bytes of a Unix socket's path in Linux


class UnixListener(Listener):
    """A Unix socket.

    Args:
        runner: of the application.
        limiter: accepts connections.
        path: of the socket.
        mode: permissions of its file, which decide whether other users can connect.
    """

    def __init__(self, runner: web.AppRunner, limiter: ConnectionLimiter, path: Path, mode: int) -> None:
        super().__init__(runner)
        self._limiter = limiter
        self._path = path
        self._mode = mode
        self._file: tuple[int, int] | None = None
        self.unreachable = ""
        """Why clients cannot connect; empty if they can."""

    @property
    def name(self) -> str:
        """The path as a URL."""
        return f"unix://{self._path}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the path cannot be a socket's, or another server listens on it.
        """
        await super().start()
        if len(bytes(self._path)) > _MAX_PATH:
            raise SettingsError(
                f"--socket {self._path}: the path has {len(bytes(self._path))} bytes, and a socket's may have "
                f"{_MAX_PATH}. Choose a shorter one."
            )
        try:
            _remove_stale(self._path)
            self._listen()
        except OSError as exc:
            raise SettingsError(f"--socket {self._path}: {exc.strerror or exc}. Choose another path.") from None

    def _listen(self) -> None:
        listening = socket.socket(socket.AF_UNIX)
        try:
            missing = not self._path.parent.is_dir()
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if missing:
                log.warning("the directory of --socket did not exist and was created", directory=str(self._path.parent))
            listening.bind(str(self._path))
            self._path.chmod(self._mode)  # before it listens: until then no client can connect, whatever its mode
            self._file = _identity(self._path)
            self._acceptor = Acceptor([listening], self._limiter.factory(), self._backlog)
        except BaseException:
            listening.close()
            raise

    def check(self) -> None:
        """Check whether clients can connect at the path, and listen again if its file was removed.

        The kernel keeps the inode of a listening socket, so no other file can get its number meanwhile.
        """
        if self._file is None:
            return
        found, reason = _identity(self._path), ""
        if found is None:
            reason = self._listen_again()
        elif found != self._file:
            reason = f"--socket {self._path}: another file has taken its place; clients cannot connect to this server."
        if reason and reason != self.unreachable:
            log.error("the socket cannot be reached", reason=reason)
        self.unreachable = reason

    def _listen_again(self) -> str:
        """Listen at the path, which is free; return why that failed, empty if it did not."""
        previous = self._acceptor
        try:
            self._listen()
        except OSError as exc:
            return f"--socket {self._path}: its file was removed and cannot be created again: {exc.strerror or exc}."
        log.warning("the file of --socket was removed; it is created again", path=str(self._path))
        if previous is not None:  # connections that wait in its backlog are accepted first
            asyncio.get_running_loop().call_later(0, previous.close)
        return ""

    async def stop(self) -> None:
        """Stop listening and remove the socket, unless another server has replaced it."""
        await super().stop()
        file, self._file = self._file, None
        if file is not None and _identity(self._path) == file:
            self._path.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if it does not exist."""
    try:
        stat = path.lstat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _remove_stale(path: Path) -> None:
    """Remove the socket of a server that was killed.

    Raises:
        SettingsError: a server listens on it, or it is unknown whether one does.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_PROBE_TIMEOUT)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except OSError as exc:  # such as a server that is too busy to accept: never remove its socket
            raise SettingsError(f"--socket {path}: it exists, and its server does not respond: {exc}.") from None
    raise SettingsError(f"--socket {path}: another server listens there.")
