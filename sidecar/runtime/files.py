"""Read small files, such as tokens, keys and certificates, with a limit of time and size.

A path may refer to a FIFO, which blocks until another process writes, to an endless device, to a file larger than the
memory, or into a network file system that does not respond. So a file is opened without blocking, its type and size
are checked first, and all of that happens in a thread with a timeout.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sidecar.runtime.threads import Workers

T = TypeVar("T")

LIMIT = 1 << 20
"""Maximum size of a file in bytes; enough for thousands of tokens or certificates."""
TIMEOUT = 5.0
"""Seconds after which a file system is considered not to respond."""


class NotSmall(OSError):
    """The file is not read, because of its type or size."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.why = why


class ReadTimeout(OSError):
    """The file system does not respond."""

    def __init__(self, path: object, seconds: float) -> None:
        super().__init__(f"{path}: the file system does not answer within {seconds:g} s")


def read_small(path: Path, limit: int = LIMIT) -> bytes:
    """Return the content of a file. This may block if the file system does not respond.

    Raises:
        NotSmall: it is not a regular file, or exceeds the limit.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NotSmall(path, "is not a regular file")
        if status.st_size <= limit:
            with open(fd, "rb", closefd=False) as file:
                data = file.read(limit + 1)
            if len(data) <= limit:
                return data
        raise NotSmall(path, f"is larger than {limit >> 20} MiB")
    finally:
        os.close(fd)


def run_with_timeout(work: Callable[[], T], path: object) -> T:
    """Call ``work`` in a thread and block until it returns; for the start of the server.

    Args:
        work: accesses files.
        path: of the files, for errors.

    Raises:
        ReadTimeout: it takes too long.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as exc:  # raised below
            errors.append(exc)

    thread = threading.Thread(target=run, name=f"read {path}", daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if errors:
        raise errors[0]
    if not results:
        raise ReadTimeout(path, TIMEOUT)
    return results[0]


class FileThread(Generic[T]):
    """Accesses files in a thread of its own, one call at a time, with a timeout.

    Args:
        path: of the files, for errors.
        seconds: the timeout; default: :data:`TIMEOUT`.
    """

    def __init__(self, path: object, seconds: float | None = None) -> None:
        self._path = path
        self._seconds = TIMEOUT if seconds is None else seconds
        self._workers = Workers(1, f"read {path}")

    async def run(self, work: Callable[[], T]) -> T:
        """Call ``work`` in the thread.

        Raises:
            ReadTimeout: it takes too long, or an earlier call has not ended yet.
        """
        if self._workers.longest_call > self._seconds:
            raise ReadTimeout(self._path, self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._workers.run(work)
        except TimeoutError:
            raise ReadTimeout(self._path, self._seconds) from None

    def close(self) -> None:
        """End the thread after its last call."""
        self._workers.close()
