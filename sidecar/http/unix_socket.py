"""A Unix socket as a way in, and its file: whose it is, and what is done when it is taken away."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import structlog
from aiohttp import web

from sidecar.config.values import SettingsError
from sidecar.http.acceptor import Acceptor
from sidecar.http.connections import ConnectionLimiter, Site

log = structlog.get_logger("server")

_PROBE_TIMEOUT = 1.0  # seconds; a server whose backlog is full has not gone
_LONGEST_PATH = 107  # bytes of a Unix socket's path, as the kernel has it


class Socket(Site):
    """A Unix socket; whether others than its owner reach it is a matter of its mode."""

    def __init__(self, runner: web.AppRunner, door: ConnectionLimiter, path: Path, mode: int) -> None:
        super().__init__(runner)
        self._door = door
        self._path = path
        self._mode = mode
        self._file: tuple[int, int] | None = None
        self.trouble = ""
        """Why no caller reaches it; empty when callers do."""

    @property
    def name(self) -> str:
        """The path, as a URL."""
        return f"unix://{self._path}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SettingsError: the path cannot be a socket's, or another server listens there.
        """
        await super().start()
        if len(bytes(self._path)) > _LONGEST_PATH:
            raise SettingsError(
                f"--socket {self._path}: the path has {len(bytes(self._path))} bytes, and a socket's may have "
                f"{_LONGEST_PATH}. Choose a shorter one."
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
                log.warning("the directory of --socket did not exist and was made", directory=str(self._path.parent))
            listening.bind(str(self._path))
            self._path.chmod(self._mode)  # until it listens no connection comes in, whatever the mode was
            self._file = _file(self._path)
            self._acceptor = Acceptor([listening], self._door.factory(), self._backlog)
        except BaseException:
            listening.close()
            raise

    def look(self) -> None:
        """Look whether callers find it at its path, and listen anew where its file was removed.

        The kernel keeps the inode of a socket that listens, so no other file can have its number meanwhile.
        """
        if self._file is None:
            return
        found, trouble = _file(self._path), ""
        if found is None:
            trouble = self._listen_anew()
        elif found != self._file:
            trouble = f"--socket {self._path}: another file is there now, and no caller reaches this server by it."
        if trouble and trouble != self.trouble:
            log.error("the socket cannot be reached", reason=trouble)
        self.trouble = trouble

    def _listen_anew(self) -> str:
        """Listen at the path, which is free; return why that is not possible."""
        before = self._acceptor
        try:
            self._listen()
        except OSError as exc:
            return f"--socket {self._path}: its file was removed, and a new one cannot be made: {exc.strerror or exc}."
        log.warning("the file of --socket was removed: the server listens there anew", path=str(self._path))
        if before is not None:  # connections that still wait there are accepted first
            asyncio.get_running_loop().call_later(0, before.close)
        return ""

    async def stop(self) -> None:
        """Listen no more, and take the socket away."""
        await super().stop()
        file, self._file = self._file, None
        if file is not None and _file(self._path) == file:  # or it is another server's
            self._path.unlink(missing_ok=True)


def _file(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _remove_stale(path: Path) -> None:
    """Take away a socket that a server has left behind which was killed.

    Raises:
        SettingsError: somebody listens on it, or nobody can tell.
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
        except OSError as exc:  # a server too that is too busy to answer; nobody else's socket is taken away
            raise SettingsError(f"--socket {path}: it is there, and cannot be asked who listens: {exc}.") from None
    raise SettingsError(f"--socket {path}: another server listens there.")
