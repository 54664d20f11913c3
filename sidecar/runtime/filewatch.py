"""Reload files that are replaced while the server runs: tokens, certificates, keys.

Kubernetes replaces a mounted Secret by a symbolic link, which inotify on the file would not report. So the target of
each path is checked once a second, in a thread, so that a file system that does not respond delays nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from sidecar.runtime.files import FileThread, ReadTimeout, run_with_timeout
from sidecar.runtime.tasks import Supervised, Supervisor

log = structlog.get_logger("watch")

_INTERVAL = 1.0  # seconds

Signature = tuple[int, ...]
Read = Callable[[], Callable[[], None]]
"""Reads files, in a thread; returns a function that applies their content, in the event loop."""


class _Watched:
    """Files, and the function that reads them after a change."""

    def __init__(self, read: Read, paths: tuple[Path, ...]) -> None:
        self._read = read
        self._paths = paths
        self._name = ", ".join(map(str, paths))
        self.thread = FileThread[Callable[[], None]](self._name)
        self._seen: list[Signature] | None = None
        self._hangs = False

    def check(self) -> Callable[[], None]:
        """Read the files if they have changed, in any thread; return the function to call in the event loop."""
        now = [signature(path) for path in self._paths]
        if now == self._seen:
            return _nothing
        try:
            apply = _nothing if self._seen is None else self._read()
        except Exception as exc:  # an error must not end the checks of later changes and of other files
            return self._failed(now, exc)
        return lambda: self._apply(now, apply)

    def _failed(self, now: list[Signature], exc: Exception) -> Callable[[], None]:
        def fail() -> None:
            raise exc

        return lambda: self._apply(now, fail)

    def _apply(self, now: list[Signature], apply: Callable[[], None]) -> None:
        self._seen = now
        try:
            apply()
        except Exception:
            log.exception("a file that has changed was not read", files=[str(path) for path in self._paths])

    async def update(self) -> None:
        """Apply a change. While the file system does not respond, the last content stays in effect."""
        try:
            apply = await self.thread.run(self.check)
        except ReadTimeout as exc:
            if not self._hangs:
                log.error("a watched file cannot be read: its last content stays in effect", reason=str(exc))
            self._hangs = True
            return
        if self._hangs:
            self._hangs = False
            log.info("the file system of a watched file responds again", files=self._name)
        apply()


def _nothing() -> None:
    """Do nothing."""


class FileWatcher:
    """Reloads files after they have changed."""

    def __init__(self) -> None:
        self._watched: list[_Watched] = []
        self._task: Supervised | None = None

    def add(self, read: Read, *paths: Path) -> None:
        """Watch files from now on; call this before they are first read.

        Args:
            read: called once, in a thread, even if several of the files change at the same time.
            paths: of the files, which need not exist.
        """
        watched = _Watched(read, paths)
        run_with_timeout(watched.check, ", ".join(map(str, paths)))()
        self._watched.append(watched)

    def start(self, tasks: Supervisor) -> None:
        """Start to check the files once a second."""
        self._task = tasks.start(self._run, "watch", vital=True)

    async def close(self) -> None:
        """End the task and the threads."""
        if self._task:
            await self._task.close()
        for watched in self._watched:
            watched.thread.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL)
            await self.check()

    async def check(self) -> None:
        """Check all files now, concurrently."""
        await asyncio.gather(*(watched.update() for watched in self._watched))


def signature(path: Path) -> Signature:
    """Return values that change with each version of a file; empty if it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
