"""Lines of output, as answers show them: the bytes, strings of a JSON array, or server-sent events."""

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
_PIECE = 64 * 1024


def as_bytes(runs: Sequence[Run], stream: Stream) -> bytes:
    """Return the lines as the job wrote them, or, of the stream ``log``, what its shell says."""
    return b"".join(
        b"".join(texts(run.stream, run.lines())) if stream == "log" else run.data
        for run in runs
        if wanted(stream, run.stream)
    )


class Written:
    """What the reader of a job's bytes is sent: also of lines that are not complete, such as a progress bar, at once.

    Args:
        stream: which the reader wants.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ahead: Counter[Key] = Counter()  # bytes that were sent before their line was complete

    def lines(self, runs: Sequence[Run]) -> bytes:
        """Return what was not sent yet of lines that are complete."""
        if not self._ahead:
            return as_bytes(runs, self._stream)
        return b"".join(
            self._rest((run.stream, run.rank), run.data) for run in runs if wanted(self._stream, run.stream)
        )

    def begun(self, lines: Mapping[Key, Part]) -> bytes:
        """Return what was not sent yet of lines that are not complete."""
        found = []
        for key, part in lines.items():
            if wanted(self._stream, key[0]) and part.size > self._ahead[key]:
                found.append(part.behind(self._ahead[key]))
                self._ahead[key] = part.size
        return b"".join(found)

    def _rest(self, key: Key, data: bytes) -> bytes:
        sent = min(self._ahead[key], len(data))
        self._ahead -= Counter({key: sent})  # which forgets those that come to nothing
        return data[sent:]


def as_strings(runs: Sequence[Run], stream: Stream) -> bytes:
    """Return the lines as strings of a JSON array, with a comma between two of them, and none around them."""
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
    """Return each line as a server-sent event; ``first`` lines are before them."""
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


async def rendered(cursor: Cursor, first: int, runs: Sequence[Run], stream: Stream, make: Callable[[], bytes]) -> bytes:
    """Return what ``make`` does of lines between ``first`` and a reader's place.

    It is made once for all readers at the same place, and by one of them in each turn of the event loop: ten readers
    of long outputs hold up other requests no more than one.
    """
    logs = cursor.log.logs
    size = sum(len(run.data) for run in runs)  # the last line of a job that writes may be longer the next time
    key = (cursor.log.jobid, cursor.origin, first, cursor.number, size, stream, make.__qualname__)
    async with logs.turn:
        data = logs.rendered(key)
        if data is None:
            data = make()
            logs.remember(key, data)
        await asyncio.sleep(0)
    return data


async def bytes_of(cursor: Cursor, end: int, stream: Stream) -> AsyncIterator[bytes]:
    """Yield the bytes that a job has written up to a piece."""
    while (found := await cursor.read(end, rest=True))[1]:
        if data := as_bytes(found[1], stream):
            yield data
        await asyncio.sleep(0)


async def body_of(
    cursor: Cursor, end: int, stream: Stream, why: Callable[[bool], Awaitable[str]]
) -> AsyncIterator[bytes]:
    """Yield ``{"Output": […]}`` in pieces, with what the job's shell has said, if anything.

    Args:
        cursor: at the first line.
        end: the number of pieces to read.
        stream: what is asked for.
        why: returns why there is no line, from whether the job's shell has said something.
    """
    opened = said = False
    while (found := await cursor.read(end, rest=True))[1]:
        first, runs = found
        said = said or any(wanted("log", run.stream) for run in runs)
        if data := await strings_of(cursor, first, runs, stream):
            yield (b"," if opened else b'{"Output":[') + data
            opened = True
    yield b"]" if opened else b'{"Output":[],"Message":%b' % _encode(await why(said))
    if said:  # looked for once more: what was said in a long output must not be kept meanwhile
        for name, kind in (("Log", "log"), ("Redirected", "redirect")):
            async for piece in _said(Cursor(cursor.log), end, name, kind):
                yield piece
    yield b"}\n"  # a terminal's prompt begins on a line of its own


async def _said(cursor: Cursor, end: int, name: str, kind: str) -> AsyncIterator[bytes]:
    """Yield a member of an object: an array of what the shell has said; nothing where there is none of the kind."""
    opened = False
    while runs := (await cursor.read(end, rest=True))[1]:
        if found := b",".join(line.rstrip(b"\n") for run in runs if run.stream == kind for line in run.lines()):
            yield (b"," if opened else b',"%b":[' % name.encode()) + found
            opened = True
        await asyncio.sleep(0)
    if opened:
        yield b"]"


async def strings_of(cursor: Cursor, first: int, runs: Sequence[Run], stream: Stream) -> bytes:
    """Return lines that were read as strings of a JSON array."""

    def strings() -> bytes:
        return as_strings(runs, stream)

    return await rendered(cursor, first, runs, stream, strings)


async def events_of(cursor: Cursor, first: int, runs: Sequence[Run], stream: Stream) -> bytes:
    """Return lines that were read as server-sent events."""

    def events() -> bytes:
        return as_events(runs, stream, cursor, first)

    return await rendered(cursor, first, runs, stream, events)


async def beginning(pieces: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Return the first pieces of an answer, and whether they are the whole of it."""
    gathered, size = [], 0
    async for piece in pieces:
        gathered.append(piece)
        size += len(piece)
        if size > _PIECE:
            return b"".join(gathered), False
    return b"".join(gathered), True


async def chained(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the beginning of an answer, then the rest of it."""
    yield first
    async for piece in pieces:
        yield piece


class OutputBody(msgspec.Struct, omit_defaults=True):
    """Lines with their newline; bytes that are not UTF-8 are shown as U+FFFD (ask for text/plain to get them)."""

    Output: list[str]
    Message: Annotated[str | None, Meta(description="why there are no lines")] = None
    Log: Annotated[
        list[Said], Meta(description="what the job's shell says, such as how much of the output was cut")
    ] = []
    Redirected: Annotated[list[Redirected], Meta(description="streams that go to files instead")] = []
