"""Files that somebody replaces while the server runs: tokens, certificates, keys.

Kubernetes swaps a mounted Secret by a symbolic link, which no watch of the file itself would see; what a path leads
to is looked at once a second.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

_EVERY = 1.0

Signature = tuple[int, int, int, int] | None


class Watch:
    """Calls back when a file has changed."""

    def __init__(self) -> None:
        self._files: list[tuple[Path, Callable[[], None]]] = []
        self._seen: dict[Path, Signature] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, path: Path, changed: Callable[[], None]) -> None:
        """Watch a file that has just been read."""
        self._files.append((path, changed))
        self._seen[path] = _signature(path)

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="watch")

    async def close(self) -> None:
        """Look no more."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY)
            now = {path: _signature(path) for path in self._seen}
            changed = {path for path, signature in now.items() if signature != self._seen[path]}
            self._seen = now
            for path, call in self._files:
                if path in changed:
                    call()


def _signature(path: Path) -> Signature:
    """Return what tells one version of a file from another; None when it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
