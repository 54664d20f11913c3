"""Files that somebody replaces while the server runs: tokens, certificates, keys.

Kubernetes swaps a mounted Secret by a symbolic link, which no watch of the file itself would see; what a path leads
to is looked at once a second, in a thread: a file system that does not answer holds up nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from sidecar.runtime.files import Looks, ReadTimeout, within
from sidecar.runtime.tasks import Supervised, Supervisor

log = structlog.get_logger("watch")

_EVERY = 1.0

Signature = tuple[int, ...]
Read = Callable[[], Callable[[], None]]
"""Reads files, in a thread; returns what lets them count, which is called in the event loop."""


class _Watched:
    """Files, and what reads them when one of them is another one."""

    def __init__(self, read: Read, paths: tuple[Path, ...]) -> None:
        self._read = read
        self._paths = paths
        self._name = ", ".join(map(str, paths))
        self.looks = Looks[Callable[[], None]](self._name)
        self._seen: list[Signature] | None = None
        self._hangs = False

    def look(self) -> Callable[[], None]:
        """Look, in any thread; return what is to be called in the event loop."""
        now = [signature(path) for path in self._paths]
        if now == self._seen:
            return _nothing
        try:
            taken = _nothing if self._seen is None else self._read()
        except Exception as exc:  # whatever it is: the next change, and every other file, has to be seen all the same
            return self._failed(now, exc)
        return lambda: self._take(now, taken)

    def _failed(self, now: list[Signature], exc: Exception) -> Callable[[], None]:
        def fail() -> None:
            raise exc

        return lambda: self._take(now, fail)

    def _take(self, now: list[Signature], taken: Callable[[], None]) -> None:
        self._seen = now
        try:
            taken()
        except Exception:
            log.exception("a file that has changed was not read", files=[str(path) for path in self._paths])

    async def tell(self) -> None:
        """Look, and let what has changed count. While the file system does not answer, what was read before counts."""
        try:
            taken = await self.looks.look(self.look)
        except ReadTimeout as exc:
            if not self._hangs:
                log.error("a watched file cannot be looked at: what was read before counts", reason=str(exc))
            self._hangs = True
            return
        if self._hangs:
            self._hangs = False
            log.info("the file system of a watched file answers again", files=self._name)
        taken()


def _nothing() -> None:
    """Do nothing."""


class Watch:
    """Has files read again when they have changed."""

    def __init__(self) -> None:
        self._watched: list[_Watched] = []
        self._task: Supervised | None = None

    def add(self, read: Read, *paths: Path) -> None:
        """Watch files that are about to be read: what happens to them from now on is seen.

        Args:
            read: called once, in a thread, however many of them have changed at the same time.
            paths: of the files, which need not be there.
        """
        watched = _Watched(read, paths)
        within(watched.look, ", ".join(map(str, paths)))()
        self._watched.append(watched)

    def start(self, tasks: Supervisor) -> None:
        """Begin to look, once a second, in a task of its own."""
        self._task = tasks.start(self._run, "watch", vital=True)

    async def close(self) -> None:
        """End the task, and the threads."""
        if self._task:
            await self._task.close()
        for watched in self._watched:
            watched.looks.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            await self.look()

    async def look(self) -> None:
        """Look at all files now, side by side."""
        await asyncio.gather(*(watched.tell() for watched in self._watched))


def signature(path: Path) -> Signature:
    """Return what tells one version of a file from another; nothing when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
