"""One server for one store: locks that the kernel lets go when their process ends, however it ends.

There are two, since a file can be reached by several paths. A lock file beside the store keeps a second server away
while the store is made, set aside and used, and names its holder. A lock on the store's own file, on a byte that SQLite
never uses, keeps away a server that opens the file by another name (a hard link, another mount).
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

_PATIENCE, _POLL = 2.0, 0.1
"""Seconds: a predecessor that is being ended lets go within moments."""
_BYTE = 1 << 62  # SQLite locks bytes around 2^30; no file is as long as this
_AS_IT_IS = os.O_NOFOLLOW | os.O_NONBLOCK  # another user may have made what is there, and a link would lead elsewhere
_OURS = b'{"pid": '  # how the holder begins, see StoreLock.note
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE)
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


class StoreLock:
    """The right to use a store's file.

    Args:
        path: the file, with all symbolic links followed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._beside = path.with_name(f"{path.name}.lock")
        self._lock: int | None = None
        self._file: int | None = None

    def take(self) -> None:
        """Take the lock beside the file, waiting a moment for a predecessor that ends.

        Raises:
            StoreError: another server has it, or there are no locks here.
        """
        try:
            self._lock = os.open(self._beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | _AS_IT_IS, 0o600)
            if not stat.S_ISREG(os.fstat(self._lock).st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
        except OSError as exc:
            self.release()
            reason = "it is a symbolic link" if exc.errno == errno.ELOOP else exc.strerror
            raise StoreError(
                f"The store {self._path} cannot be opened: {self._beside}: {reason}. Name another with --store."
            ) from None
        self._until_free(lambda lock: fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB), self._lock)
        if not _OURS.startswith(os.pread(self._lock, len(_OURS), 0)):  # it may be cut short: the disk was full
            self.release()
            raise StoreError(
                f"The store {self._path} cannot be opened: {self._beside} is another program's file. Name another "
                "store with --store, or move that file away."
            )
        self.note("")

    def take_file(self) -> None:
        """Take the lock on the file itself, and let go the one on the file before it.

        It must not be open in SQLite: to close any descriptor of a file drops all locks that SQLite has on it.

        Raises:
            StoreError: a server that has opened it by another name has it, or there are no locks here.
        """
        if self._file is not None and not self.replaced:
            return
        self._close_file()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        wish = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, _BYTE, 1, 0)
        self._until_free(lambda file: fcntl.fcntl(file, fcntl.F_OFD_SETLK, wish), self._file)

    @property
    def replaced(self) -> bool:
        """Whether the path no longer leads to the file that was opened: it was removed, moved or replaced.

        Raises:
            OSError: it cannot be found out.
        """
        if self._file is None:
            return False
        try:
            found, opened = os.stat(self._path), os.fstat(self._file)
        except OSError as exc:
            if exc.errno in _NOT_THERE:
                return True
            raise
        return (found.st_dev, found.st_ino) != (opened.st_dev, opened.st_ino)

    def note(self, address: str) -> None:
        """Write the holder of the store into the lock file, for the server that is refused.

        Args:
            address: where this server listens; empty before it does.
        """
        if self._lock is None:
            return
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": int(time.time()), "address": address}
        text = json.dumps(holder).encode() + b"\n"
        try:
            os.ftruncate(self._lock, 0)
            os.pwrite(self._lock, text, 0)
        except OSError:  # a full disk: the lock holds all the same, and its holder has no name
            return

    def release(self) -> None:
        """Let go."""
        self._close_file()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _until_free(self, lock: Callable[[int], object], descriptor: int) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                lock(descriptor)
            except OSError as exc:
                if exc.errno not in _HELD:
                    self.release()
                    raise StoreError(
                        f"The store {self._path} cannot be locked: {exc.strerror}. Two servers would destroy it: put "
                        "it on a file system that has locks, and name it with --store."
                    ) from None
                if time.monotonic() > deadline:
                    holder = self._holder()
                    self.release()
                    raise StoreError(
                        f"The store {self._path} is in use by {holder}. One store is for one server: stop that one, "
                        "or name another file with --store."
                    ) from None
                time.sleep(_POLL)
            else:
                return

    def _holder(self) -> str:
        """Name the holder of the lock, as far as its file does."""
        try:
            found = json.loads(self._beside.read_bytes())
            holder = f"the server with pid {int(found['pid'])} on {found['host']}"
            return f"{holder} at {found['address']}" if found["address"] else holder
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return "another server"
