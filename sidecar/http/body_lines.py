"""Lines of a request's body as they come: their bytes are counted, and each byte has a time-out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

import msgspec
from aiohttp import web

from sidecar.domain import json_size
from sidecar.domain.errors import InvalidRequest, Overloaded, Problem, TooLarge, without_traceback
from sidecar.http import decoding
from sidecar.http.body import BODIES, BOM, counted, without_bom
from sidecar.http.unreadable import body_problem


class Line:
    """One line that is not empty.

    Args:
        number: from 1.
        raw: its bytes.
        problem: why it is not looked at; its bytes are gone then.
    """

    __slots__ = ("members", "number", "problem", "raw")

    def __init__(self, number: int, raw: bytes = b"", problem: Problem | None = None) -> None:
        self.number = number
        self.raw = raw
        self.problem = problem
        self.members = 0

    @property
    def weight(self) -> int:
        """How many bytes it takes in memory, also once it is decoded."""
        return json_size.weight(self.raw, self.members)


class Lines:
    """The lines of a body. As a context it holds the bytes of those that are not done with.

    No line is read while there is no room for its bytes: a client that sends more than others leave room for is slowed
    down. Only when that takes longer than a body may, lines are refused.

    Args:
        request: whose body it is.
        longest: bytes that a line may have.
    """

    def __init__(self, request: web.Request, longest: int) -> None:
        self._content = request.content
        self._longest = longest
        self._bodies = request.app[BODIES]
        self._held = self._bodies.hold(request)
        self._size = 0
        self._number = 0
        self._first: bytes | None = None
        self._empty = True
        self._rest = bytearray()
        self._skipped: Problem | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    async def begin(self) -> bytes:
        """Return the beginning of the body, without the white space before it; that is counted as lines, not kept.

        Raises:
            RequestTimeout: it does not come in time.
            InvalidRequest: it is broken, or UTF-16, or there is no more than white space.
        """
        try:
            piece = await self._read()
            found = without_bom(piece)
            while piece and not found.strip():
                self._number += found.count(b"\n")
                piece = found = await self._read()
        except TimeoutError:
            raise self._bodies.too_slow from None
        except web.RequestPayloadError as exc:
            raise body_problem(exc) from None
        if not piece:
            raise _no_job()
        self._first = found
        return found.lstrip()

    async def _read(self) -> bytes:
        """Read some of the body; empty at its end."""
        if self._first:
            data, self._first = self._first, None
            return data
        async with self._bodies.timeout():
            return await self._content.readany()

    async def __aiter__(self) -> AsyncIterator[Line]:
        """Yield the lines. Each is to be given to :meth:`done`.

        When the body does not come in time, is broken, or has no line, the last one has that as its problem.
        """
        while True:
            try:
                data = await self._read()
            except (TimeoutError, web.RequestPayloadError) as exc:
                problem = self._bodies.too_slow if isinstance(exc, TimeoutError) else body_problem(exc)
                self._resize(-len(self._rest))
                yield Line(self._number + 1, problem=problem)
                return
            if not data:
                break
            refusal = None if await self._room(len(data)) else _no_room()
            self._resize(len(data))
            begin = 0
            while (end := data.find(b"\n", begin)) >= 0:  # one after another: all at once they take much more memory
                self._take(data[begin:end], refusal)
                self._resize(-1)
                begin = end + 1
                if line := self._line():
                    yield line
            self._take(data[begin:], refusal)
        if line := self._line():
            yield line
        elif self._empty:
            yield Line(self._number, problem=_no_job())

    def _take(self, piece: bytes, refusal: Problem | None) -> None:
        """Add to the line that comes, unless it is passed over."""
        if self._skipped is None and piece:
            self._skipped = refusal
        if self._skipped is None and len(self._rest) + len(piece) > self._longest:
            self._skipped = TooLarge(f"The line is longer than the limit of {self._longest} bytes (--max-body).")
        if self._skipped is None:
            self._rest += piece
            return
        self._resize(-len(piece) - len(self._rest))
        self._rest.clear()

    def _line(self) -> Line | None:
        """Return the line that has come; None where it is empty."""
        self._number += 1
        raw, self._rest = bytes(self._rest), bytearray()
        if raw.startswith(BOM):  # also of a later line, where files were joined
            raw = raw.removeprefix(BOM)
            self._resize(-len(BOM))
        problem, self._skipped = self._skipped, None
        self._empty &= problem is None and not raw.strip()
        if problem is None and raw.strip():
            return Line(self._number, raw)
        self._resize(-len(raw))
        return None if problem is None else Line(self._number, problem=problem)

    async def weigh(self, line: Line, cls: type[msgspec.Struct], message: str) -> None:
        """Find out how many bytes a line takes once it is decoded, and wait for room for them.

        Args:
            line: where it cannot be decoded, it gets the problem.
            cls: what it is decoded to.
            message: what the predecessor's clients show for a fault.
        """
        if (found := json_size.at_most(line.raw)) > json_size.MOST:
            try:
                async with self._bodies.decoding(json_size.weight(line.raw, found)):
                    found = decoding.count_members(cls, line.raw, message)
            except InvalidRequest as exc:
                line.problem = without_traceback(exc)
                return
        if not await self._room(json_size.SIZE * found):
            line.problem = _no_room()
            return
        line.members = found
        self._resize(json_size.SIZE * found)

    def done(self, line: Line) -> None:
        """Let go of a line."""
        self._resize(-line.weight)

    async def _room(self, more: int) -> bool:
        """Wait until so many bytes more may be held; return whether that was in time."""
        if self._held.fits(counted(self._size + more)):
            return True
        try:
            async with self._bodies.timeout():
                await self._held.wait(counted(self._size + more))
        except TimeoutError:
            return False
        return True

    def _resize(self, more: int) -> None:
        self._size += more
        self._held.force(counted(self._size))


def _no_job() -> InvalidRequest:
    return InvalidRequest("There is no job in the body: send one JSON object per line.")


def _no_room() -> Overloaded:
    return Overloaded("There was no room for this line: too many bytes of request bodies are held (--max-in-flight).")
