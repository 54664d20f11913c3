"""A job's output from its output eventlog (RFC 24), shared by both instances.

Data arrives in pieces: split lines, bytes in base64, tasks and streams interleaved. :class:`Assembler` puts each
(task, stream) together again, so that a line is whole, and lines stand in the order in which they were completed.
"""

from __future__ import annotations

import base64
from typing import Any, Literal

import msgspec

Stream = Literal["stdout", "stderr", "both"]


class Output(msgspec.Struct):
    """What a job has written so far: whole lines with their newline, and at the end what has none yet."""

    lines: list[bytes] = []
    redirected: dict[str, str] = {}

    @property
    def empty(self) -> bool:
        """Whether nothing was written yet."""
        return not self.lines


class _Entry(msgspec.Struct):
    name: str
    context: dict[str, Any] = {}


_decode = msgspec.json.Decoder(_Entry).decode


class Assembler:
    """Collects output data entries; ``stream`` chooses which."""

    def __init__(self, stream: Stream = "both") -> None:
        self._stream = stream
        self._partial: dict[tuple[str, str], bytearray] = {}
        self._lines: list[bytes] = []
        self._redirected: dict[str, str] = {}

    def add(self, stream: str, rank: str, data: bytes) -> None:
        """Add a piece that a task wrote."""
        if self._stream not in ("both", stream):
            return
        partial = self._partial.setdefault((stream, rank), bytearray())
        partial += data
        if b"\n" not in data:
            return
        *lines, rest = bytes(partial).split(b"\n")
        self._lines += [line + b"\n" for line in lines]
        partial[:] = rest

    def feed(self, eventlog: str) -> None:
        """Add the entries of an output eventlog, one JSON object a line."""
        for line in eventlog.split("\n"):  # not splitlines(): U+2028 is data
            if line:
                entry = _decode(line)
                if entry.name == "data" and "data" in entry.context:
                    self.add(entry.context["stream"], str(entry.context["rank"]), _data(entry.context))
                elif entry.name == "redirect":
                    self._redirected[str(entry.context.get("stream"))] = str(entry.context.get("path"))

    def result(self) -> Output:
        """Return all that was collected, unfinished lines last."""
        rest = [bytes(partial) for partial in self._partial.values() if partial]
        return Output(self._lines + rest, self._redirected)


def _data(context: dict[str, Any]) -> bytes:
    data: str = context["data"]
    return base64.b64decode(data) if context.get("encoding") == "base64" else data.encode()


def parse(eventlog: str, stream: Stream = "both") -> Output:
    """Return the output that an output eventlog holds."""
    assembler = Assembler(stream)
    assembler.feed(eventlog)
    return assembler.result()
