"""The end of an output eventlog: looked for from the end, so that the last lines of a long output cost what they are.

Read from the middle, a log does not tell whether the first line of each task there is whole. So the beginnings of those
lines are looked for in the pieces before, as far as it matters and within a bound. A stream that writes little beside
another that writes much is looked for within a bound too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sidecar.domain.output import Key, Run, Stream, wanted
from sidecar.services.output_log import Cursor, OutputLog
from sidecar.services.output_segments import Segment

IN_VAIN = 256 * 1024 * 1024
"""How much is looked through in which there is none of the wanted lines: bytes of the log, with what lines cost."""
_LEAST = 16 * 1024  # bytes that every piece counts: to ask for it takes as long
_LINE = 16  # bytes that a line counts beside its own
_MOST_BACK = 32  # pieces that are read back for the beginning of a line
_MOST_TASKS = 10_000  # of more streams of tasks it is not looked whether their first lines are whole


async def tail(output: OutputLog, lines: int, stream: Stream, end: int, *, rest: bool) -> tuple[Cursor, bool]:
    """Return the place before the last lines of a stream, and whether it was looked for as far as it had to be.

    Args:
        output: the log.
        lines: how many.
        stream: of which stream.
        end: the number of pieces to read.
        rest: the log ends there.
    """
    assert output.pieces is not None  # noqa: S101 - readers refresh first
    look = _Look(output, stream, end, rest)
    piece, more = await look.back(lines)
    cursor = Cursor(output, output.pieces.last_stable(await look.whole(piece, more)))
    await cursor.to(piece)
    await cursor.leave_out(more if lines else None, stream, end, rest=rest)
    return cursor, not look.gave_up


class _Look:
    """A look back from the end, a piece at a time, each decoded as if the log began with it.

    Lines are counted where they end, so it does not matter where they begin.
    """

    def __init__(self, output: OutputLog, stream: Stream, end: int, rest: bool) -> None:
        self._output = output
        self._stream = stream
        self._end = end
        self._rest = rest
        self._seen: set[Key] = set()
        self.gave_up = False
        """Whether so much was looked through in vain that there may be lines before."""

    def _matches(self, key: Key | Run) -> bool:
        return wanted(self._stream, key[0])

    def _keys(self, keys: Iterable[Key]) -> set[Key]:
        return {key for key in keys if self._matches(key)}

    async def back(self, lines: int) -> tuple[int, int]:
        """Return the piece in which the first of the last lines ends, and how many lines of the stream are before it.

        That is counted from the piece on. Where there are not as many lines, it is the first piece that has any.
        """
        found = vain = 0
        piece = first = self._end
        while piece and found < lines:
            if vain >= IN_VAIN:
                self.gave_up = True
                break
            piece -= 1
            segment = await self._output.segment(piece, None)
            here = self._count(segment)
            if here:
                first = piece
            found += here
            share = 1 - min(here, segment.count) / segment.count if segment.count else 1
            vain += int(max(_LEAST, segment.read + segment.count * _LINE) * share)
            await asyncio.sleep(0)  # a piece that is kept takes no turn of the loop
        return first, max(0, found - lines)

    def _count(self, segment: Segment) -> int:
        """Return how many lines of the stream end in a piece, and, where the log ends, behind it."""
        ended = self._keys(run[:2] for run in segment.runs)
        begun = self._keys(segment.after.open_lines) if segment.after else set()
        here = sum(run.length for run in segment.runs if self._matches(run))
        if self._rest:  # the last that a task has written has no newline
            here += len(begun - self._seen)
        if len(self._seen) < _MOST_TASKS:
            self._seen |= ended | begun
        return here

    async def whole(self, piece: int, more: int) -> int:
        """Return the piece to begin with, for the lines behind ``more`` lines of a piece to be whole."""
        missing = set(self._seen)
        if piece < self._end:
            missing -= self._before(await self._output.segment(piece, None), more)
        elif piece:
            last = await self._output.segment(piece - 1, None)  # no line is wanted but what is still to come
            missing = self._keys(last.after.open_lines) if last.after else set()
        first = max(0, piece - _MOST_BACK)
        while missing and piece > first and len(self._seen) < _MOST_TASKS:
            piece -= 1
            segment = await self._output.segment(piece, None)
            missing -= self._keys(run[:2] for run in segment.runs)
        return piece

    def _before(self, segment: Segment, more: int) -> set[Key]:
        """Return whose lines end in a piece before the one behind so many of the stream."""
        found: set[Key] = set()
        for run in segment.runs:
            if more <= 0:
                break
            if self._matches(run):
                found.add(run[:2])
                more -= run.length
        return found
