"""Output eventlogs, read in chunks: any size in bounded memory, from any position, and once for all readers there.

An instance stores a log as a list of chunks (Flux: the blobs of a KVS value, one for each write of the job's shell). A
chunk is read, decoded to :class:`~sidecar.domain.output.Run` objects and dropped. The results decoded last are cached
for all readers, within a limit for the whole server; a reader is only a position. So a slow reader uses no memory but
for the data that is being sent to it, and ten readers of one log decode it about once.

Two loads run at a time, and each reads up to eight chunks ahead. Large chunks are decoded in a thread, so that other
requests are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping

from sidecar.domain.errors import InvalidRequest
from sidecar.domain.output import Key, Run, Stream, wanted
from sidecar.domain.output_eventlog import Assembler
from sidecar.domain.partial import Part
from sidecar.instance import Instance, OutputChunks
from sidecar.services.output_segments import RUN_COST, Segment, Segments

_RENDERED = 2 * 1024 * 1024  # bytes of rendered output that are cached, for all logs
_READ_SIZE = 64 * 1024  # bytes that a read returns, about
_LINE_COST = 64  # bytes for the frame of a line that is sent as an event
_SMALL, _READ_AHEAD = 32 * 1024, 8  # read ahead up to 8 chunks after as many chunks of up to 32 KiB
_INDEX_EVERY = 16  # chunks
_ID = re.compile(r"(?:[0-9]{1,18}-)?[0-9]{1,18}")
_END = -1  # index of the segment after the last chunk


class OutputLogs:
    """The output logs of all jobs, and the caches for them.

    Args:
        instance: stores the logs.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._logs: weakref.WeakValueDictionary[int, OutputLog] = weakref.WeakValueDictionary()
        self.segments = Segments()
        self._rendered: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._rendered_size = 0
        self.turn = asyncio.Lock()
        """For rendering, which blocks the event loop for a while: one reader at a time."""

    @property
    def cached(self) -> int:
        """Bytes in the caches."""
        return self.segments.size + self._rendered_size

    def open(self, jobid: int) -> OutputLog:
        """Return the log of a job. Call :meth:`OutputLog.refresh` before reading it."""
        output = self._logs.get(jobid)
        if output is None:
            output = self._logs[jobid] = OutputLog(jobid, self)
        return output

    def rendered(self, key: tuple[object, ...]) -> bytes | None:
        """Return the cached data that was sent to another reader: most readers are at the same position."""
        return self._rendered.get(key)

    def remember(self, key: tuple[object, ...], data: bytes) -> None:
        """Cache rendered data for the next reader at the same position."""
        if key not in self._rendered:
            self._rendered[key] = data
            self._rendered_size += len(data) + RUN_COST
        while self._rendered_size > _RENDERED:
            self._rendered_size -= len(self._rendered.popitem(last=False)[1]) + RUN_COST


class OutputLog:
    """The output log of one job."""

    def __init__(self, jobid: int, logs: OutputLogs) -> None:
        self.jobid = jobid
        self.logs = logs
        self.chunks: OutputChunks | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._read_ahead: dict[int, bytes] = {}
        self._last = self._small_in_a_row = 0
        self.index: list[tuple[int, int]] = [(0, 0)]
        """Indexes of chunks before which no line is incomplete, each with the number of lines before it."""

    @property
    def count(self) -> int:
        """The number of chunks."""
        return len(self.chunks) if self.chunks is not None else 0

    async def refresh(self) -> None:
        """Update the list of chunks.

        Callers that arrive during a refresh share the next one.

        Raises:
            Unavailable: the instance is not connected.
        """
        refreshing = self._refreshing
        if refreshing is None:
            refreshing = self._refreshing = asyncio.create_task(self._refresh(), name="output log")
            refreshing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(refreshing)

    async def _refresh(self) -> None:
        async with self._lock:
            self._refreshing = None  # this request may miss what is written from now on
            chunks = await self.logs.instance.output_chunks(self.jobid, self.chunks)
            if len(chunks) >= self.count:
                self.chunks = chunks

    async def load(self, number: int) -> bytes:
        """Read a chunk; after several small ones in a row, read ahead.

        The size of a chunk is known only when it has been read, so the number of chunks that are read ahead is the
        number of small ones in a row.
        """
        assert self.chunks is not None  # noqa: S101 - readers refresh first
        step, self._last = number - self._last, number
        data = self._read_ahead.pop(number, None)
        if data is None:
            self._read_ahead.clear()
            count = max(1, min(self._small_in_a_row, _READ_AHEAD)) if abs(step) == 1 else 1
            numbers = [number + index * step for index in range(count) if 0 <= number + index * step < self.count]
            instance, chunks = self.logs.instance, self.chunks
            data, *more = await asyncio.gather(*(instance.read_output(self.jobid, chunks, each) for each in numbers))
            if all(len(each) <= _SMALL for each in more):
                self._read_ahead = dict(zip(numbers[1:], more, strict=True))
        self._small_in_a_row = self._small_in_a_row + 1 if len(data) <= _SMALL else 0
        return data

    async def segment(self, number: int, state: Assembler | None) -> Segment:
        """Return the content of a chunk for a reader with the state before it."""
        assert self.chunks is not None  # noqa: S101 - readers refresh first
        key = (self.jobid, number, self.chunks.cache_key(number), state.state if state else b"")
        return await self.logs.segments.get(key, state, lambda: self.load(number))

    async def rest(self, state: Assembler) -> Segment:
        """Return the lines without a newline at the end of the log."""
        return await self.logs.segments.get((self.jobid, _END, (_END, _END), state.state), state, None)


class Cursor:
    """A reader's position in a log.

    Args:
        output: the log.
        chunk: index of the first chunk to read; not 0 if only the end is read.
        number: number of lines before that chunk.
    """

    def __init__(self, output: OutputLog, chunk: int = 0, number: int = 0) -> None:
        self.log = output
        self._origin = chunk
        self._chunk = chunk
        self._state: Assembler | None = None
        self._base = self._number = number
        self.redirected: dict[str, str] = {}

    @property
    def number(self) -> int:
        """The number of lines before the position, counted from the origin."""
        return self._number

    @property
    def position(self) -> str:
        """The position as an event ID."""
        return self.event_id(self._number)

    def event_id(self, number: int) -> str:
        """Return the event ID of a line: its number, and before it the ID of the origin unless that is the start."""
        if not self._origin:
            return str(number)
        assert self.log.chunks is not None  # noqa: S101 - it was read
        return f"{self.log.chunks.chunk_id(self._origin)}-{number}"

    @property
    def origin(self) -> int:
        """The first chunk that this reader has read: lines are counted from there."""
        return self._origin

    async def read(self, end: int, *, rest: bool = False) -> tuple[int, list[Run]]:
        """Read some lines; return the number of lines before them and the lines, or an empty list at the end.

        Args:
            end: number of chunks to read.
            rest: the log ends there: include the lines without a newline.
        """
        first, runs, size = self._number, [], 0
        while size < _READ_SIZE and (run := await self._next(end, rest)):
            runs.append(run)
            size += len(run.data) + RUN_COST + run.length * _LINE_COST
            self._number += run.length
        return first, runs

    @property
    def incomplete(self) -> Mapping[Key, Part]:
        """The incomplete lines at the position; valid after :meth:`read` has returned no lines."""
        return self._state.open_lines if self._state else {}

    async def seek_chunk(self, chunk: int) -> None:
        """Move to the first line that ends in or after a chunk."""
        while self._chunk < chunk:
            segment = await self.log.segment(self._chunk, self._state)
            self._number = self._base + segment.count
            self._advance(segment)

    async def skip_lines(self, lines: int | None, stream: Stream, end: int, *, rest: bool) -> None:
        """Skip a number of lines of a stream; None: all of them."""
        while (lines is None or lines > 0) and (run := await self._next(end, rest)):
            counts = wanted(stream, run.stream)
            length = min(run.length, lines) if counts and lines is not None else run.length
            self._number += length
            if counts and lines is not None:
                lines -= length

    async def seek(self, number: int, end: int, *, rest: bool = False) -> bool:
        """Move past a number of lines; return whether the log has that many."""
        if not self._origin:
            index = bisect_right(self.log.index, number, key=lambda each: each[1]) - 1
            chunk, lines = self.log.index[index]
            if self._number < lines and chunk <= end:
                self._chunk, self._base, self._number, self._state = chunk, lines, lines, None
        while self._chunk < end:
            segment = await self.log.segment(self._chunk, self._state)
            if number < self._base + segment.count:
                self._number = max(number, self._number)
                return True
            self._number = self._base + segment.count
            self._advance(segment)
        while self._number < number and (run := await self._next(end, rest)):
            self._number += min(run.length, number - self._number)
        return self._number >= number

    async def _next(self, end: int, rest: bool) -> Run | None:
        """Return the run at the position, without moving past it."""
        while self._chunk < end:
            segment = await self.log.segment(self._chunk, self._state)
            if run := self._run_in(segment):
                return run
            self._advance(segment)
        return self._run_in(await self.log.rest(self._state)) if rest and self._state else None

    def _run_in(self, segment: Segment) -> Run | None:
        """Return the run of a segment at the position; None if the position is past the segment."""
        index = bisect_right(segment.ends, self._number - self._base)
        if index == len(segment.runs):
            return None
        before = segment.ends[index - 1] if index else 0
        return segment.runs[index].behind(self._number - self._base - before)

    def _advance(self, segment: Segment) -> None:
        """Move to the next chunk."""
        self._chunk += 1
        self._base += segment.count
        self._state = segment.after
        self.redirected = {**self.redirected, **segment.redirected}
        index = self.log.index
        if not self._origin and self._state is None and self._chunk >= index[-1][0] + _INDEX_EVERY:
            index.append((self._chunk, self._base))


async def resume(output: OutputLog, text: str, name: str, end: int, *, rest: bool) -> Cursor:
    """Return a cursor at the position of an event ID.

    Args:
        output: the log.
        text: the event ID.
        name: name of the parameter, for the error.
        end: number of chunks to read.
        rest: the log ends there.

    Raises:
        InvalidRequest: the log has no such position.
    """
    chunk_id, _, number = text.rpartition("-")
    if _ID.fullmatch(text):
        origin = output.chunks.find(int(chunk_id)) if chunk_id and output.chunks is not None else 0
        if origin is not None and origin <= end and (not chunk_id or origin):
            cursor = Cursor(output, origin)
            if await cursor.seek(int(number), end, rest=rest):
                return cursor
            raise InvalidRequest(
                f"{name}: {text[:80]!r} is no line of this output; use 0 (from the first line) to {cursor.position}."
            )
    raise InvalidRequest(f"{name}: {text[:80]!r} is no id of this stream; use an id of its events, or 0 (all of it).")
