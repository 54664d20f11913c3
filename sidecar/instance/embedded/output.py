"""The output eventlogs of the embedded engine, read by pieces: files, cut where an entry ends."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import IO

from sidecar.domain.errors import Problem
from sidecar.instance.base import OutputChunks

_PIECE = 1024 * 1024
_STEP = 64 * 1024


class Ranges:
    """The pieces of a file.

    One ends behind each megabyte, wherever the file is read from; further ends are where it was while it grew.
    """

    def __init__(self, ends: list[int], stable: list[int]) -> None:
        self.ends = ends
        self._stable = stable
        """The ends of whole megabytes, and of what is left of the file."""

    def __len__(self) -> int:
        return len(self.ends)

    def begin(self, number: int) -> int:
        """Return where a piece begins."""
        return self.ends[number - 1] if number else 0

    def name(self, number: int) -> int:
        """Return where a piece begins: that is the same for every server."""
        return self.begin(number)

    def find(self, name: int) -> int | None:
        """Return the piece that begins there."""
        if not name:
            return 0
        index = bisect_left(self.ends, name)
        return index + 1 if index < len(self.ends) and self.ends[index] == name else None

    def extent(self, number: int) -> tuple[int, int]:
        """Return where a piece begins and ends: where the last one ends depends on when the file was looked at."""
        return self.begin(number), self.ends[number]

    def stable(self, number: int) -> int:
        """Return the last piece up to ``number`` that begins behind a whole megabyte."""
        index = bisect_right(self._stable, self.begin(number)) - 1
        return self.find(self._stable[index]) or 0 if index >= 0 else 0

    def grown(self, ends: list[int], stable: list[int]) -> Ranges:
        """Return these and more."""
        return Ranges([*self.ends, *ends], [*self._stable, *stable])


def pieces(path: Path, before: OutputChunks | None) -> Ranges:
    """Find the pieces of a file; none where there is no file."""
    known = before if isinstance(before, Ranges) else Ranges([], [])
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            ends, stable = _cut(file, known.begin(len(known)), size)
    except FileNotFoundError:
        return known
    except OSError as exc:
        raise Problem(f"The output cannot be read: {exc.strerror}.") from None
    return known.grown(ends, stable) if ends else known


def _cut(file: IO[bytes], position: int, size: int) -> tuple[list[int], list[int]]:
    """Return where pieces end between a position and the end of the last whole entry, and which of them are stable."""
    ends: list[int] = []
    stable: list[int] = []
    while position < size:
        boundary = (position // _PIECE + 1) * _PIECE
        end = _behind_entry(file, boundary, size) if boundary < size else None
        if end is None:  # the last ones, up to what may be half an entry
            end = _last_entry(file, position, size)
            if end > position:
                ends.append(end)
            break
        ends.append(end)
        stable.append(end)
        position = end
    return ends, stable


def _behind_entry(file: IO[bytes], position: int, size: int) -> int | None:
    """Return where the entry ends that a position is in; None when it is not complete."""
    file.seek(position - 1)
    while position <= size and (data := file.read(_STEP)):
        found = data.find(b"\n")
        if found >= 0:
            return position + found
        position += len(data)
    return None


def _last_entry(file: IO[bytes], position: int, size: int) -> int:
    """Return where the last whole entry ends before ``size``; ``position`` when there is none."""
    end = size
    while end > position:
        begin = max(position, end - _STEP)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return position


def piece(path: Path, pieces_: OutputChunks, number: int) -> bytes:
    """Read one piece."""
    assert isinstance(pieces_, Ranges)  # noqa: S101 - what pieces() gave
    begin = pieces_.begin(number)
    try:
        with path.open("rb") as file:
            file.seek(begin)
            return file.read(pieces_.ends[number] - begin)
    except OSError as exc:
        raise Problem(f"The output cannot be read: {exc.strerror}.") from None
