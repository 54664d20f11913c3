"""Output eventlogs of the embedded engine, read in chunks: files, cut where an entry ends."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import IO

from sidecar.domain.errors import Problem
from sidecar.instance.base import OutputChunks

_CHUNK = 1024 * 1024
_READ = 64 * 1024


class FileChunks:
    """The chunks of a file.

    A chunk ends after each megabyte, wherever reading starts; further ends are at the sizes that the file had when it
    was checked while it grew.

    Args:
        ends: the offsets at which chunks end.
        stable: those among them that do not depend on when the file was checked: after whole megabytes.
    """

    def __init__(self, ends: list[int], stable: list[int]) -> None:
        self.ends = ends
        self._stable = stable

    def __len__(self) -> int:
        return len(self.ends)

    def begin(self, index: int) -> int:
        """Return the offset at which a chunk begins."""
        return self.ends[index - 1] if index else 0

    def chunk_id(self, index: int) -> int:
        """Return the offset at which a chunk begins, which is the same on every server."""
        return self.begin(index)

    def find(self, chunk_id: int) -> int | None:
        """Return the index of the chunk that begins at an offset."""
        if not chunk_id:
            return 0
        index = bisect_left(self.ends, chunk_id)
        return index + 1 if index < len(self.ends) and self.ends[index] == chunk_id else None

    def cache_key(self, index: int) -> tuple[int, int]:
        """Return where a chunk begins and ends: the end of the last one depends on when the file was checked."""
        return self.begin(index), self.ends[index]

    def last_stable(self, index: int) -> int:
        """Return the last chunk up to ``index`` that begins after a whole megabyte."""
        position = bisect_right(self._stable, self.begin(index)) - 1
        return self.find(self._stable[position]) or 0 if position >= 0 else 0

    def extended(self, ends: list[int], stable: list[int]) -> FileChunks:
        """Return a copy with more chunks."""
        return FileChunks([*self.ends, *ends], [*self._stable, *stable])


def list_chunks(path: Path, before: OutputChunks | None) -> FileChunks:
    """Return the chunks that a file has now; an empty list if there is no file.

    Args:
        path: the output eventlog.
        before: the previous result.

    Raises:
        Problem: the file cannot be read.
    """
    known = before if isinstance(before, FileChunks) else FileChunks([], [])
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends, stable = _cut(file, known.begin(len(known)), size)
    except FileNotFoundError:
        return known
    except OSError as exc:
        raise Problem(f"The output cannot be read: {exc.strerror}.") from None
    return known.extended(ends, stable) if ends else known


def _cut(file: IO[bytes], position: int, size: int) -> tuple[list[int], list[int]]:
    """Return the ends of chunks from a position to the end of the last whole entry, and which of them are stable."""
    ends: list[int] = []
    stable: list[int] = []
    while position < size:
        boundary = (position // _CHUNK + 1) * _CHUNK
        end = _entry_end(file, boundary, size) if boundary < size else None
        if end is None:  # the last chunk; an entry that is only partly written follows
            end = _last_entry_end(file, position, size)
            if end > position:
                ends.append(end)
            break
        ends.append(end)
        stable.append(end)
        position = end
    return ends, stable


def _entry_end(file: IO[bytes], position: int, size: int) -> int | None:
    """Return where the entry at a position ends; None if it is not complete."""
    file.seek(position - 1)
    while position <= size and (data := file.read(_READ)):
        newline = data.find(b"\n")
        if newline >= 0:
            return position + newline
        position += len(data)
    return None


def _last_entry_end(file: IO[bytes], position: int, size: int) -> int:
    """Return where the last whole entry before ``size`` ends; ``position`` if there is none."""
    end = size
    while end > position:
        begin = max(position, end - _READ)
        file.seek(begin)
        newline = file.read(end - begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        end = begin
    return position


def read_chunk(path: Path, chunks: OutputChunks, index: int) -> bytes:
    """Read one chunk.

    Raises:
        Problem: the file cannot be read.
    """
    assert isinstance(chunks, FileChunks)  # noqa: S101 - the result of list_chunks()
    begin = chunks.begin(index)
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(chunks.ends[index] - begin)
    except OSError as exc:
        raise Problem(f"The output cannot be read: {exc.strerror}.") from None
