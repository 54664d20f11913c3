"""Render lines of output: as the bytes of the job, as strings of a JSON array, or as server-sent events."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.domain.output import Key, Run, Stream, wanted
from sidecar.domain.partial import Part
from sidecar.domain.shell_log import Redirected, Said, texts
from sidecar.services.output_log import Cursor

_encode = msgspec.json.encode
_CHUNK = 64 * 1024


class OutputBody(msgspec.Struct, omit_defaults=True):
    """Output of a job or a launcher."""

    Output: Annotated[
        list[str],
        Meta(description="lines with their newline; bytes that are not UTF-8 are U+FFFD (text/plain has them as is)"),
    ]
    Message: Annotated[str | None, Meta(description="why there are no lines")] = None
    Log: Annotated[
        list[Said], Meta(description="messages of the job's shell, such as how much of the output was cut")
    ] = []
    Redirected: Annotated[list[Redirected], Meta(description="streams that go to files instead")] = []


def as_bytes(runs: Sequence[Run], stream: Stream) -> bytes:
    """Return lines as the job wrote them; for the stream ``log`` the messages of its shell."""
    return b"".join(
        b"".join(texts(run.stream, run.lines())) if stream == "log" else run.data
        for run in runs
        if wanted(stream, run.stream)
    )


class ByteOutput:
    """The bytes that a reader of a job's output has not received yet, those of incomplete lines included.

    Args:
        stream: the stream that the reader asked for.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._sent: Counter[Key] = Counter()  # bytes of a line that were sent before it was complete

    def lines(self, runs: Sequence[Run]) -> bytes:
        """Return the unsent bytes of complete lines."""
        if not self._sent:
            return as_bytes(runs, self._stream)
        return b"".join(
            self._unsent((run.stream, run.rank), run.data) for run in runs if wanted(self._stream, run.stream)
        )

    def incomplete(self, lines: Mapping[Key, Part]) -> bytes:
        """Return the unsent bytes of lines that are not complete, such as a progress bar."""
        found = []
        for key, part in lines.items():
            if wanted(self._stream, key[0]) and part.size > self._sent[key]:
                found.append(part.behind(self._sent[key]))
                self._sent[key] = part.size
        return b"".join(found)

    def _unsent(self, key: Key, data: bytes) -> bytes:
        sent = min(self._sent[key], len(data))
        self._sent -= Counter({key: sent})  # -= drops entries that become 0
        return data[sent:]


def as_strings(runs: Sequence[Run], stream: Stream) -> bytes:
    """Return lines as strings of a JSON array, separated by commas, without the brackets."""
    found: list[bytes] = []
    for run in runs:
        if wanted(stream, run.stream):
            lines = [
                line.decode(errors="replace")
                for line in (texts(run.stream, run.lines()) if stream == "log" else run.lines())
            ]
            found.append(_encode(lines)[1:-1])
    return b",".join(found)


def as_events(runs: Sequence[Run], stream: Stream, cursor: Cursor, first: int) -> bytes:
    """Return each line as a server-sent event; ``first`` is the number of lines before them."""
    found: list[bytes] = []
    prefix, _, _ = cursor.event_id(0).rpartition("0")
    for run in runs:
        if wanted(stream, run.stream) and run.stream not in ("stdout", "stderr"):
            found += [
                b"id: %b%d\nevent: %b\ndata: %b\n\n"
                % (prefix.encode(), number, run.stream.encode(), line.rstrip(b"\n"))
                for number, line in enumerate(run.lines(), first + 1)
            ]
        elif wanted(stream, run.stream):
            head = b'data: {"stream":%b,"rank":%b,"data":' % (_encode(run.stream), _encode(run.rank))
            found += [
                b"id: %b%d\n%b%b}\n\n" % (prefix.encode(), number, head, _encode(line.decode(errors="replace")))
                for number, line in enumerate(run.lines(), first + 1)
            ]
        first += run.length
    return b"".join(found)


async def _rendered(
    cursor: Cursor, first: int, runs: Sequence[Run], stream: Stream, render: Callable[[], bytes]
) -> bytes:
    """Return what ``render`` makes of the lines between ``first`` and the cursor.

    Lines are rendered once for all readers at the same position, and by one reader per turn of the event loop: ten
    readers of long outputs delay other requests no more than one.
    """
    logs = cursor.log.logs
    size = sum(len(run.data) for run in runs)  # the last line of a running job may be longer the next time
    key = (cursor.log.jobid, cursor.origin, first, cursor.number, size, stream, render.__qualname__)
    async with logs.turn:
        data = logs.rendered(key)
        if data is None:
            data = render()
            logs.remember(key, data)
        await asyncio.sleep(0)
    return data


async def bytes_of(cursor: Cursor, end: int, stream: Stream) -> AsyncIterator[bytes]:
    """Yield the bytes of a stream, up to the chunk ``end`` of the log."""
    while (read := await cursor.read(end, rest=True))[1]:
        if data := as_bytes(read[1], stream):
            yield data
        await asyncio.sleep(0)


async def body_of(
    cursor: Cursor, end: int, stream: Stream, why: Callable[[bool], Awaitable[str]]
) -> AsyncIterator[bytes]:
    """Yield an :class:`OutputBody` in chunks, with the messages of the job's shell.

    Args:
        cursor: at the first line.
        end: the number of chunks of the log to read.
        stream: the stream that was asked for.
        why: returns why there are no lines; its argument is whether the job's shell has logged something.
    """
    opened = shell_log = False
    while (read := await cursor.read(end, rest=True))[1]:
        first, runs = read
        shell_log = shell_log or any(wanted("log", run.stream) for run in runs)
        if data := await strings_of(cursor, first, runs, stream):
            yield (b"," if opened else b'{"Output":[') + data
            opened = True
    yield b"]" if opened else b'{"Output":[],"Message":%b' % _encode(await why(shell_log))
    if shell_log:  # read a second time, so that the messages in a long output are not buffered meanwhile
        for name, kind in (("Log", "log"), ("Redirected", "redirect")):
            async for chunk in _member(Cursor(cursor.log), end, name, kind):
                yield chunk
    yield b"}\n"  # a terminal's prompt starts on a line of its own


async def _member(cursor: Cursor, end: int, name: str, kind: str) -> AsyncIterator[bytes]:
    """Yield the lines of one kind as an array that is a member of an object; nothing when there are none."""
    opened = False
    while runs := (await cursor.read(end, rest=True))[1]:
        if found := b",".join(line.rstrip(b"\n") for run in runs if run.stream == kind for line in run.lines()):
            yield (b"," if opened else b',"%b":[' % name.encode()) + found
            opened = True
        await asyncio.sleep(0)
    if opened:
        yield b"]"


async def strings_of(cursor: Cursor, first: int, runs: Sequence[Run], stream: Stream) -> bytes:
    """Return the lines that a cursor has read as strings of a JSON array; see :func:`as_strings`."""

    def strings() -> bytes:
        return as_strings(runs, stream)

    return await _rendered(cursor, first, runs, stream, strings)


async def events_of(cursor: Cursor, first: int, runs: Sequence[Run], stream: Stream) -> bytes:
    """Return the lines that a cursor has read as server-sent events; see :func:`as_events`."""

    def events() -> bytes:
        return as_events(runs, stream, cursor, first)

    return await _rendered(cursor, first, runs, stream, events)


async def beginning(chunks: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Return the first chunks of a body, and whether they are all of it."""
    gathered, size = [], 0
    async for chunk in chunks:
        gathered.append(chunk)
        size += len(chunk)
        if size > _CHUNK:
            return b"".join(gathered), False
    return b"".join(gathered), True


async def chained(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the first bytes of a body, then its remaining chunks."""
    yield first
    async for chunk in chunks:
        yield chunk
