"""A job's output from its output eventlog (RFC 24), shared by both instances.

Data arrives in pieces: split lines, bytes in base64, tasks and streams interleaved. :class:`Assembler` puts each
(task, stream) together again, so that a line is whole, and lines stand in the order in which they were completed.
The same eventlog always gives the same lines, so a line's number is a position to come back to.
"""

from __future__ import annotations

import base64
from typing import Any, Literal, NamedTuple

import msgspec

Stream = Literal["stdout", "stderr", "both"]


class Line(NamedTuple):
    """A line that a task has written, with its newline; the last one may have none."""

    stream: str
    rank: str
    data: bytes


class Output(msgspec.Struct):
    """What a job has written so far: ``lines`` that are whole, and ``rest``, which has no newline yet."""

    lines: list[Line] = []
    rest: list[Line] = []
    redirected: dict[str, str] = {}

    def data(self, stream: Stream) -> list[bytes]:
        """Return the lines of one stream, or of both."""
        return [line.data for line in (*self.lines, *self.rest) if stream in ("both", line.stream)]


class _Entry(msgspec.Struct):
    name: str
    context: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Entry).decode


class Assembler:
    """Puts output data entries together."""

    def __init__(self) -> None:
        self._partial: dict[tuple[str, str], bytearray] = {}
        self.redirected: dict[str, str] = {}

    def feed(self, eventlog: str) -> list[Line]:
        """Add entries of an output eventlog, one JSON object a line; return the lines that they complete."""
        found: list[Line] = []
        for text in eventlog.split("\n"):  # not splitlines(): U+2028 is data
            if text:
                entry = _decode(text)
                context = entry.context
                if entry.name == "data" and "data" in context:
                    found += self._add(context["stream"], str(context["rank"]), _data(context))
                elif entry.name == "redirect":
                    self.redirected[str(context.get("stream"))] = str(context.get("path"))
        return found

    def _add(self, stream: str, rank: str, data: bytes) -> list[Line]:
        partial = self._partial.setdefault((stream, rank), bytearray())
        partial += data
        if b"\n" not in data:
            return []
        *lines, rest = bytes(partial).split(b"\n")
        partial[:] = rest
        return [Line(stream, rank, line + b"\n") for line in lines]

    def rest(self) -> list[Line]:
        """Return what has no newline yet."""
        return [Line(stream, rank, bytes(data)) for (stream, rank), data in self._partial.items() if data]


def _data(context: dict[str, Any]) -> bytes:
    data: str = context["data"]
    return base64.b64decode(data) if context.get("encoding") == "base64" else data.encode()


def parse(eventlog: str) -> Output:
    """Return the output that an output eventlog holds."""
    assembler = Assembler()
    lines = assembler.feed(eventlog)
    return Output(lines, assembler.rest(), assembler.redirected)
