"""Allow one server per store, with locks that the kernel releases when their process ends, however it ends.

There are two, since a file can have several paths. A lock file beside the store excludes a second server while the
store is created, set aside and used, and contains the holder's address. A lock on the store's own file, on a byte that
SQLite never uses, excludes a server that opens the file by another path (a hard link, another mount).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path

from sidecar.domain.errors import StoreError

_TIMEOUT, _POLL = 2.0, 0.1  # seconds; a previous server that is ending releases the lock soon
_BYTE = 1 << 62  # SQLite locks bytes around 2^30; no file is this long
_NO_FOLLOW = os.O_NOFOLLOW | os.O_NONBLOCK  # the path may be another user's file, link or pipe
_PREFIX = b'{"pid": '  # of the content, see StoreLock.note_holder
_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


class StoreLock:
    """The locks of a store.

    Args:
        path: the store's file, with all symbolic links resolved.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock_path = path.with_name(f"{path.name}.lock")
        self._lock_fd: int | None = None
        self._file_fd: int | None = None

    def take(self) -> None:
        """Take the lock file, waiting a moment for a previous server that is ending.

        Raises:
            StoreError: another server has it, or the file system does not support locks.
        """
        try:
            self._lock_fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _NO_FOLLOW, 0o600)
            if not stat.S_ISREG(os.fstat(self._lock_fd).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
        except OSError as exc:
            self.release()
            reason = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
            raise StoreError(
                f"The store {self._path} cannot be opened: {self._lock_path}: {reason}. Name another with --store."
            ) from None
        self._until_free(lambda lock: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB), self._lock_fd)
        if not _PREFIX.startswith(
            os.pread(self._lock_fd, len(_PREFIX), 0)
        ):  # it may be truncated, if the disk was full
            self.release()
            raise StoreError(
                f"The store {self._path} cannot be opened: {self._lock_path} is another program's file. Name another "
                "store with --store, or move that file away."
            )
        self.note_holder("")

    def take_file(self) -> None:
        """Take the lock on the store's file, and release that on the file that was at this path before.

        The file must not be open in SQLite: closing any descriptor of a file drops all locks that SQLite has on it.

        Raises:
            StoreError: a server that uses another path has it, or the file system does not support locks.
        """
        if self._file_fd is not None and not self.replaced:
            return
        self._close_file()
        self._file_fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        request = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
        self._until_free(lambda file: fcntl.fcntl(file, fcntl.F_OFD_SETLK, request), self._file_fd)

    @property
    def replaced(self) -> bool:
        """Whether the path no longer leads to the open file: it was removed, moved or replaced.

        Raises:
            OSError: the path cannot be checked.
        """
        if self._file_fd is None:
            return False
        try:
            current, opened = os.stat(self._path), os.fstat(self._file_fd)
        except OSError as exc:
            if exc.errno in _MISSING:
                return True
            raise
        return (current.st_dev, current.st_ino) != (opened.st_dev, opened.st_ino)

    def note_holder(self, address: str) -> None:
        """Write this server into the lock file, for the error of a second server.

        Args:
            address: address on which this server listens; empty until it does.
        """
        if self._lock_fd is None:
            return
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time()), "address": address}
        text = json.dumps(holder).encode() + b"\n"
        try:
            os.ftruncate(self._lock_fd, 0)
            os.pwrite(self._lock_fd, text, 0)
        except OSError:  # the disk is full: the lock works, only the error is less precise
            return

    def release(self) -> None:
        """Release both locks."""
        self._close_file()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _close_file(self) -> None:
        if self._file_fd is not None:
            os.close(self._file_fd)
            self._file_fd = None

    def _until_free(self, lock: Callable[[int], object], descriptor: int) -> None:
        deadline = time.monotonic() + _TIMEOUT
        while True:
            try:
                lock(descriptor)
            except OSError as exc:
                if exc.errno not in _HELD:
                    self.release()
                    raise StoreError(
                        f"The store {self._path} cannot be locked: {exc.strerror}. Two servers would destroy it: put "
                        "it on a file system that supports locks, and name it with --store."
                    ) from None
                if time.monotonic() > deadline:
                    holder = self._holder()
                    self.release()
                    raise StoreError(
                        f"The store {self._path} is in use by {holder}. A store is for one server only: stop that "
                        "server, or name another file with --store."
                    ) from None
                time.sleep(_POLL)
            else:
                return

    def _holder(self) -> str:
        """Describe the holder of the lock, as far as the lock file does."""
        try:
            content = json.loads(self._lock_path.read_bytes())
            holder = f"the server with pid {int(content['pid'])} on {content['host']}"
            return f"{holder} at {content['address']}" if content["address"] else holder
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return "another server"
