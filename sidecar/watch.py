"""Files that somebody replaces while the server runs: tokens, certificates, keys.

Kubernetes swaps a mounted Secret by a symbolic link, which no watch of the file itself would see; what a path leads
to is looked at once a second.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import structlog

from sidecar.tasks import Supervised, Supervisor

log = structlog.get_logger("watch")

_EVERY = 1.0

Signature = tuple[int, ...]


class _Watched:
    """Files, and who is told when one of them is another one."""

    def __init__(self, changed: Callable[[], None], paths: tuple[Path, ...]) -> None:
        self._changed = changed
        self._paths = paths
        self._seen = self._look()

    def _look(self) -> list[Signature]:
        return [signature(path) for path in self._paths]

    def tell(self) -> None:
        """Call back if something has changed."""
        now = self._look()
        if now == self._seen:
            return
        self._seen = now
        try:
            self._changed()
        except Exception:  # whatever it is: the next change, and every other file, has to be seen all the same
            log.exception("a file that has changed was not read", files=[str(path) for path in self._paths])


class Watch:
    """Calls back when a file has changed."""

    def __init__(self) -> None:
        self._watched: list[_Watched] = []
        self._task: Supervised | None = None

    def add(self, changed: Callable[[], None], *paths: Path) -> None:
        """Watch files that are about to be read: of what happens to them from now on somebody is told.

        Args:
            changed: called once, however many of them have changed at the same time.
            paths: of the files, which need not be there.
        """
        self._watched.append(_Watched(changed, paths))

    def start(self, tasks: Supervisor) -> None:
        """Begin to look, once a second, in a task of its own."""
        self._task = tasks.start(self._run, "watch", vital=True)

    async def close(self) -> None:
        """End the task."""
        if self._task:
            await self._task.close()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            self.look()

    def look(self) -> None:
        """Look at all files now."""
        for watched in self._watched:
            watched.tell()


def signature(path: Path) -> Signature:
    """Return what tells one version of a file from another; nothing when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
