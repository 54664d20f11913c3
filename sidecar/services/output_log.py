"""Output eventlogs, read by pieces: any size in bounded memory, from any place, once for all readers at the same place.

An instance keeps a log as a list of pieces (Flux: the blobs of a KVS value, one for each time that the job's shell
wrote). A piece is read, decoded to :class:`~sidecar.output.Run` objects and forgotten. What is decoded last is kept for
all readers, up to a bound for the whole server; a reader itself is only a place. So a reader that takes nothing holds
nothing but what is being sent to it, and ten readers of one log decode it about once.

Two pieces at most are read and decoded at a time, beside the event loop: other requests are answered meanwhile.
"""

from __future__ import annotations

import asyncio
import re
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping

from sidecar.domain.errors import InvalidRequest
from sidecar.domain.output import Assembler, Key, Run, Stream, wanted
from sidecar.domain.partial import Part
from sidecar.instance import Instance, OutputChunks
from sidecar.services.output_segments import RUN_COST, Segment, Segments

_RENDERED = 2 * 1024 * 1024  # bytes of what was sent last, of all logs
_SENT = 64 * 1024  # bytes that a reader is given at a time
_LINE_COST = 64  # bytes that a line costs beside its own, where it is sent by itself
_SMALL, _AHEAD = 32 * 1024, 8  # so many pieces are asked for at once behind as many of no more bytes
_KNOWN_EVERY = 16  # pieces
_ID = re.compile(r"(?:[0-9]{1,18}-)?[0-9]{1,18}")
_END = -1  # the number of a piece that stands for the end of a log


class OutputLogs:
    """The logs of all jobs, and what is kept of them.

    Args:
        instance: where they are.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self._logs: weakref.WeakValueDictionary[int, OutputLog] = weakref.WeakValueDictionary()
        self.segments = Segments()
        self._rendered: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._rendered_size = 0
        self.turn = asyncio.Lock()
        """For what makes much work on the event loop: one reader at a time."""

    @property
    def kept(self) -> int:
        """How many bytes are kept for all readers."""
        return self.segments.size + self._rendered_size

    def open(self, job: int) -> OutputLog:
        """Return the log of a job; call :meth:`OutputLog.refresh` before reading it."""
        found = self._logs.get(job)
        if found is None:
            found = self._logs[job] = OutputLog(job, self)
        return found

    def rendered(self, key: tuple[object, ...]) -> bytes | None:
        """Return what was sent to another reader, ready-made: most readers are equally far."""
        return self._rendered.get(key)

    def remember(self, key: tuple[object, ...], data: bytes) -> None:
        """Keep what was sent, for the next reader at the same place."""
        if key not in self._rendered:
            self._rendered[key] = data
            self._rendered_size += len(data) + RUN_COST
        while self._rendered_size > _RENDERED:
            self._rendered_size -= len(self._rendered.popitem(last=False)[1]) + RUN_COST


class OutputLog:
    """The log of one job."""

    def __init__(self, job: int, logs: OutputLogs) -> None:
        self.job = job
        self.logs = logs
        self.pieces: OutputChunks | None = None
        self._next: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._ahead: dict[int, bytes] = {}
        self._last = self._streak = 0  # the piece that was read last, and how many small ones in a row
        self.known: list[tuple[int, int]] = [(0, 0)]
        """How many lines are before a piece, where one reader has come by and nothing was begun."""

    @property
    def count(self) -> int:
        """How many pieces there are."""
        return len(self.pieces) if self.pieces is not None else 0

    async def refresh(self) -> None:
        """Look for new pieces.

        A caller that comes while this is done shares the next look with all that come meanwhile.

        Raises:
            Unavailable: the instance is not there.
        """
        following = self._next
        if following is None:
            following = self._next = asyncio.create_task(self._refresh(), name="output log")
            following.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(following)

    async def _refresh(self) -> None:
        async with self._reading:
            self._next = None  # what is written from now on may not be in it
            pieces = await self.logs.instance.output_chunks(self.job, self.pieces)
            if len(pieces) >= self.count:
                self.pieces = pieces

    async def load(self, number: int) -> bytes:
        """Read a piece; where those before were small, some more are asked for at once.

        How large a piece is only its arrival tells: no more are asked for than small ones have come in a row.
        """
        assert self.pieces is not None  # noqa: S101 - readers refresh first
        step, self._last = number - self._last, number
        data = self._ahead.pop(number, None)
        if data is None:
            self._ahead.clear()
            count = max(1, min(self._streak, _AHEAD)) if abs(step) == 1 else 1
            numbers = [number + index * step for index in range(count) if 0 <= number + index * step < self.count]
            instance, pieces = self.logs.instance, self.pieces
            data, *more = await asyncio.gather(*(instance.read_output(self.job, pieces, each) for each in numbers))
            if all(len(each) <= _SMALL for each in more):
                self._ahead = dict(zip(numbers[1:], more, strict=True))
        self._streak = self._streak + 1 if len(data) <= _SMALL else 0
        return data

    async def segment(self, number: int, state: Assembler | None) -> Segment:
        """Return what a piece holds for a reader that comes with a state."""
        assert self.pieces is not None  # noqa: S101 - readers refresh first
        key = (self.job, number, self.pieces.cache_key(number), state.state if state else b"")
        return await self.logs.segments.get(key, state, lambda: self.load(number))

    async def rest(self, state: Assembler) -> Segment:
        """Return what has no newline, where the log ends with a state."""
        return await self.logs.segments.get((self.job, _END, (_END, _END), state.state), state, None)


class Cursor:
    """A reader's place in a log.

    Args:
        output: which.
        piece: where to begin; not the first one where only the end is wanted.
        number: how many lines are before that piece.
    """

    def __init__(self, output: OutputLog, piece: int = 0, number: int = 0) -> None:
        self.log = output
        self._origin = piece
        self._piece = piece
        self._state: Assembler | None = None
        self._base = self._number = number
        self.redirected: dict[str, str] = {}

    @property
    def number(self) -> int:
        """How many lines of the log, from where this reader has begun, are behind it."""
        return self._number

    @property
    def place(self) -> str:
        """The place as an id to come back with."""
        return self.name(self._number)

    def name(self, number: int) -> str:
        """Return the id of a line: its number, behind the name of its first piece where that is not the log's first."""
        if not self._origin:
            return str(number)
        assert self.log.pieces is not None  # noqa: S101 - it was read
        return f"{self.log.pieces.chunk_id(self._origin)}-{number}"

    @property
    def origin(self) -> int:
        """The piece that this reader has begun with: its numbers count from there."""
        return self._origin

    async def read(self, end: int, *, rest: bool = False) -> tuple[int, list[Run]]:
        """Return the next lines, up to a piece: the number of lines before them, and some; none where there are none.

        Args:
            end: the number of pieces to read.
            rest: the log ends there: what has no newline belongs to it.
        """
        first, found, size = self._number, [], 0
        while size < _SENT and (run := await self._next(end, rest)):
            found.append(run)
            size += len(run.data) + RUN_COST + run.length * _LINE_COST
            self._number += run.length
        return first, found

    @property
    def begun(self) -> Mapping[Key, Part]:
        """The lines that are begun and not complete, where :meth:`read` has found no more."""
        return self._state.open_lines if self._state else {}

    async def to(self, piece: int) -> None:
        """Go on to the first line that ends in a piece, or behind it."""
        while self._piece < piece:
            segment = await self.log.segment(self._piece, self._state)
            self._number = self._base + segment.count
            self._advance(segment)

    async def leave_out(self, lines: int | None, stream: Stream, end: int, *, rest: bool) -> None:
        """Go on behind so many lines of a stream; None: behind all of them."""
        while (lines is None or lines > 0) and (run := await self._next(end, rest)):
            counts = wanted(stream, run.stream)
            length = min(run.length, lines) if counts and lines is not None else run.length
            self._number += length
            if counts and lines is not None:
                lines -= length

    async def skip(self, number: int, end: int, *, rest: bool = False) -> bool:
        """Go on to the line behind so many; return whether there are as many."""
        if not self._origin:
            index = bisect_right(self.log.known, number, key=lambda each: each[1]) - 1
            piece, lines = self.log.known[index]
            if self._number < lines and piece <= end:
                self._piece, self._base, self._number, self._state = piece, lines, lines, None
        while self._piece < end:
            segment = await self.log.segment(self._piece, self._state)
            if number < self._base + segment.count:
                self._number = max(number, self._number)
                return True
            self._number = self._base + segment.count
            self._advance(segment)
        while self._number < number and (run := await self._next(end, rest)):
            self._number += min(run.length, number - self._number)
        return self._number >= number

    async def _next(self, end: int, rest: bool) -> Run | None:
        """Return the run at this place, which the caller moves."""
        while self._piece < end:
            segment = await self.log.segment(self._piece, self._state)
            if run := self._in(segment):
                return run
            self._advance(segment)
        return self._in(await self.log.rest(self._state)) if rest and self._state else None

    def _in(self, segment: Segment) -> Run | None:
        """Return the run of a segment that is at this place, if any."""
        index = bisect_right(segment.ends, self._number - self._base)
        if index == len(segment.runs):
            return None
        before = segment.ends[index - 1] if index else 0
        return segment.runs[index].behind(self._number - self._base - before)

    def _advance(self, segment: Segment) -> None:
        """Go on to the next piece."""
        self._piece += 1
        self._base += segment.count
        self._state = segment.after
        self.redirected = {**self.redirected, **segment.redirected}
        known = self.log.known
        if not self._origin and self._state is None and self._piece >= known[-1][0] + _KNOWN_EVERY:
            known.append((self._piece, self._base))


async def resume(output: OutputLog, text: str, name: str, end: int, *, rest: bool) -> Cursor:
    """Return the place that an id tells.

    Args:
        output: the log.
        text: the id.
        name: what the caller calls it, for the message.
        end: the number of pieces to read.
        rest: the log ends there.

    Raises:
        InvalidRequest: there is no such place.
    """
    piece, _, number = text.rpartition("-")
    if _ID.fullmatch(text):
        origin = output.pieces.find(int(piece)) if piece and output.pieces is not None else 0
        if origin is not None and origin <= end and (not piece or origin):
            cursor = Cursor(output, origin)
            if await cursor.skip(int(number), end, rest=rest):
                return cursor
            raise InvalidRequest(
                f"{name}: {text[:80]!r} is no line of this output; use 0 (from the first line) to {cursor.place}."
            )
    raise InvalidRequest(f"{name}: {text[:80]!r} is no id of this stream; use one that it gave, or 0 (all of it).")
