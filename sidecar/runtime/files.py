"""Small files of settings: tokens, keys, certificates. Whatever stands at their path, to read one ends.

A path may lead to a FIFO, which is opened only when another process writes into it, to a device without end, to a file
larger than the memory, or into a network file system that does not answer. So a file is opened without waiting, its
kind and size are looked at first, and all of that is done in a thread that is given up when it takes too long.
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
"""Bytes that a file may have: thousands of tokens, or of certificates."""
PATIENCE = 5.0
"""Seconds after which a file system counts as one that does not answer."""


class NotSmall(OSError):
    """What stands at the path is not read, for its kind or its size."""

    def __init__(self, path: object, why: str) -> None:
        super().__init__(f"{path} {why}")
        self.why = why


class ReadTimeout(OSError):
    """The file system does not answer."""

    def __init__(self, path: object, seconds: float) -> None:
        super().__init__(f"{path}: the file system does not answer within {seconds:g} s")


def read_small(path: Path, limit: int = LIMIT) -> bytes:
    """Return what a file holds. This may still take long in a file system that hangs.

    Raises:
        NotSmall: it is not a regular file, or larger than the limit.
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise NotSmall(path, "is not a regular file")
        if found.st_size <= limit:
            with open(fd, "rb", closefd=False) as file:
                data = file.read(limit + 1)
            if len(data) <= limit:
                return data
        raise NotSmall(path, f"is larger than {limit >> 20} MiB")
    finally:
        os.close(fd)


def within(work: Callable[[], T], path: object) -> T:
    """Call ``work`` in a thread, and wait for it: for a start, where nothing else is to be done meanwhile.

    Raises:
        Unanswered: it takes too long.
    """
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as exc:  # it is raised below
            failed.append(exc)

    thread = threading.Thread(target=run, name=f"read {path}", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    if failed:
        raise failed[0]
    if not done:
        raise ReadTimeout(path, PATIENCE)
    return done[0]


class Looks(Generic[T]):
    """Looks at files in a thread of their own, one look at a time, and waits for none that hangs.

    Args:
        path: of the files, for errors.
        seconds: how long a look may take.
    """

    def __init__(self, path: object, seconds: float | None = None) -> None:
        self._path = path
        self._seconds = PATIENCE if seconds is None else seconds
        self._workers = Workers(1, f"read {path}")

    async def look(self, work: Callable[[], T]) -> T:
        """Call ``work`` in the thread.

        Raises:
            Unanswered: it takes too long, or an earlier call does and has not ended.
        """
        if self._workers.stuck > self._seconds:
            raise ReadTimeout(self._path, self._seconds)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._workers.run(work)
        except TimeoutError:
            raise ReadTimeout(self._path, self._seconds) from None

    def close(self) -> None:
        """End the thread, when its last look has ended."""
        self._workers.close()
