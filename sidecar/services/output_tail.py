"""The last lines of an output eventlog, found from its end: the cost does not depend on the length of the log.

In a log that is read from the middle, it is unknown whether the first line of each task is whole. So the starts of
these lines are searched in the chunks before, as far as needed and within a limit. The search for the lines of a stream
that writes little beside another that writes much has a limit too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sidecar.domain.output import Key, Run, Stream, wanted
from sidecar.services.output_log import Cursor, OutputLog
from sidecar.services.output_segments import Segment

IN_VAIN = 256 * 1024 * 1024
"""The limit of the search, in bytes of the log without a line of the stream, and the cost of its chunks and lines."""
_CHUNK_COST = 16 * 1024  # bytes that a chunk counts at least: the request for it takes as long
_LINE_COST = 16  # bytes that a line counts besides its data
_MAX_CHUNKS_BACK = 32  # chunks that are searched for the start of a line
_MAX_TASKS = 10_000  # streams of tasks beyond which the starts of lines are not searched


async def tail(output: OutputLog, lines: int, stream: Stream, end: int, *, rest: bool) -> tuple[Cursor, bool]:
    """Return a cursor before the last lines of a stream, and whether the search was completed within the limit.

    Args:
        output: the log.
        lines: number of lines.
        stream: the stream.
        end: number of chunks to read.
        rest: the log ends there.
    """
    assert output.chunks is not None  # noqa: S101 - readers refresh first
    search = _BackwardSearch(output, stream, end, rest)
    chunk, excess = await search.find(lines)
    cursor = Cursor(output, output.chunks.last_stable(await search.find_origin(chunk, excess)))
    await cursor.seek_chunk(chunk)
    await cursor.skip_lines(excess if lines else None, stream, end, rest=rest)
    return cursor, not search.limited


class _BackwardSearch:
    """A search from the end, one chunk at a time, each decoded as if it were the first chunk of the log.

    Lines are counted where they end, so it does not matter where they start.
    """

    def __init__(self, output: OutputLog, stream: Stream, end: int, rest: bool) -> None:
        self._output = output
        self._stream = stream
        self._end = end
        self._rest = rest
        self._seen: set[Key] = set()
        self.limited = False
        """Whether the limit ended the search, so that there may be more lines before."""

    def _matches(self, key: Key | Run) -> bool:
        return wanted(self._stream, key[0])

    def _matching(self, keys: Iterable[Key]) -> set[Key]:
        return {key for key in keys if self._matches(key)}

    async def find(self, lines: int) -> tuple[int, int]:
        """Find the chunk in which the first of the last lines ends.

        Returns:
            The chunk, and how many lines of the stream from the start of the chunk are too many. If the log has fewer
            lines, it is the first chunk that has any.
        """
        count = in_vain = 0
        chunk = first = self._end
        while chunk and count < lines:
            if in_vain >= IN_VAIN:
                self.limited = True
                break
            chunk -= 1
            segment = await self._output.segment(chunk, None)
            matching = self._count(segment)
            if matching:
                first = chunk
            count += matching
            share = 1 - min(matching, segment.count) / segment.count if segment.count else 1
            in_vain += int(max(_CHUNK_COST, segment.read + segment.count * _LINE_COST) * share)
            await asyncio.sleep(0)  # a cached chunk does not yield to the event loop
        return first, max(0, count - lines)

    def _count(self, segment: Segment) -> int:
        """Return how many lines of the stream end in a chunk, including those that end with the log."""
        ended = self._matching(run[:2] for run in segment.runs)
        started = self._matching(segment.after.open_lines) if segment.after else set()
        count = sum(run.length for run in segment.runs if self._matches(run))
        if self._rest:  # the last line of a task has no newline
            count += len(started - self._seen)
        if len(self._seen) < _MAX_TASKS:
            self._seen |= ended | started
        return count

    async def find_origin(self, chunk: int, excess: int) -> int:
        """Return the chunk to start with, so that the lines after the first ``excess`` lines of a chunk are whole."""
        missing = set(self._seen)
        if chunk < self._end:
            missing -= self._tasks_before(await self._output.segment(chunk, None), excess)
        elif chunk:
            last = await self._output.segment(chunk - 1, None)  # only lines that follow are wanted
            missing = self._matching(last.after.open_lines) if last.after else set()
        first = max(0, chunk - _MAX_CHUNKS_BACK)
        while missing and chunk > first and len(self._seen) < _MAX_TASKS:
            chunk -= 1
            segment = await self._output.segment(chunk, None)
            missing -= self._matching(run[:2] for run in segment.runs)
        return chunk

    def _tasks_before(self, segment: Segment, lines: int) -> set[Key]:
        """Return the tasks of which a line ends among the first ``lines`` lines of the stream in a segment."""
        tasks: set[Key] = set()
        for run in segment.runs:
            if lines <= 0:
                break
            if self._matches(run):
                tasks.add(run[:2])
                lines -= run.length
        return tasks
