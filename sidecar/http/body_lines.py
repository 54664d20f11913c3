"""Read the lines of a request body as they are received, within limits of bytes and time."""

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
    """A line that is not empty.

    Args:
        number: from 1.
        raw: its bytes.
        problem: why the line is refused; its bytes are discarded then.
    """

    __slots__ = ("members", "number", "problem", "raw")

    def __init__(self, number: int, raw: bytes = b"", problem: Problem | None = None) -> None:
        self.number = number
        self.raw = raw
        self.problem = problem
        self.members = 0

    @property
    def weight(self) -> int:
        """Bytes that the line takes in memory, its decoded values included."""
        return json_size.weight(self.raw, self.members)


class Lines:
    """The lines of a body. As a context manager it reserves the bytes of those that are in progress.

    No line is read while the budget has no room for it: a client that sends faster than lines are handled is slowed
    down. Lines are refused only if that takes longer than a body may.

    Args:
        request: the request.
        longest: bytes of a line.
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
        """Read the start of the body; white space before it counts as lines and is removed.

        Raises:
            RequestTimeout: it is not received in time.
            InvalidRequest: the body is malformed, UTF-16, or only white space.
        """
        try:
            chunk = await self._read()
            text = without_bom(chunk)
            while chunk and not text.strip():
                self._number += text.count(b"\n")
                chunk = text = await self._read()
        except TimeoutError:
            raise self._bodies.too_slow from None
        except web.RequestPayloadError as exc:
            raise body_problem(exc) from None
        if not chunk:
            raise _no_job()
        self._first = text
        return text.lstrip()

    async def _read(self) -> bytes:
        """Read a chunk of the body; empty at its end."""
        if self._first:
            data, self._first = self._first, None
            return data
        async with self._bodies.timeout():
            return await self._content.readany()

    async def __aiter__(self) -> AsyncIterator[Line]:
        """Yield the lines, each to be released by :meth:`done`.

        If the body is not received in time, is malformed or has no line, the last line has that as its problem.
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
            start = 0
            while (end := data.find(b"\n", start)) >= 0:  # not by split(), which takes much more memory
                self._append(data[start:end], refusal)
                self._resize(-1)
                start = end + 1
                if line := self._complete():
                    yield line
            self._append(data[start:], refusal)
        if line := self._complete():
            yield line
        elif self._empty:
            yield Line(self._number, problem=_no_job())

    def _append(self, part: bytes, refusal: Problem | None) -> None:
        """Add to the incomplete line, unless it is refused."""
        if self._skipped is None and part:
            self._skipped = refusal
        if self._skipped is None and len(self._rest) + len(part) > self._longest:
            self._skipped = TooLarge(f"The line is longer than the limit of {self._longest} bytes (--max-body).")
        if self._skipped is None:
            self._rest += part
            return
        self._resize(-len(part) - len(self._rest))
        self._rest.clear()

    def _complete(self) -> Line | None:
        """Return the line that is complete now; None if it is empty."""
        self._number += 1
        raw, self._rest = bytes(self._rest), bytearray()
        if raw.startswith(BOM):  # also in a later line, where files were concatenated
            raw = raw.removeprefix(BOM)
            self._resize(-len(BOM))
        problem, self._skipped = self._skipped, None
        self._empty &= problem is None and not raw.strip()
        if problem is None and raw.strip():
            return Line(self._number, raw)
        self._resize(-len(raw))
        return None if problem is None else Line(self._number, problem=problem)

    async def weigh(self, line: Line, cls: type[msgspec.Struct], message: str) -> None:
        """Estimate the bytes of a line's decoded values, and wait until the budget has room for them.

        Args:
            line: receives the problem if it cannot be decoded.
            cls: the struct to decode it to.
            message: what the predecessor's clients show for a fault.
        """
        if (members := json_size.at_most(line.raw)) > json_size.MOST:
            try:
                async with self._bodies.decoding(json_size.weight(line.raw, members)):
                    members = decoding.count_members(cls, line.raw, message)
            except InvalidRequest as exc:
                line.problem = without_traceback(exc)
                return
        if not await self._room(json_size.SIZE * members):
            line.problem = _no_room()
            return
        line.members = members
        self._resize(json_size.SIZE * members)

    def done(self, line: Line) -> None:
        """Release the bytes of a line."""
        self._resize(-line.weight)

    async def _room(self, more: int) -> bool:
        """Wait until the budget has room for more bytes; return False if that takes too long."""
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
