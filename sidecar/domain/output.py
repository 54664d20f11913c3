"""A job's output from its output eventlog (RFC 24), shared by both instances.

Data arrives in pieces: split lines, bytes in base64, tasks and streams interleaved. :class:`Assembler` puts each
(task, stream) together again, so that a line is whole, and lines stand in the order in which they were completed.
The same eventlog always gives the same lines, so a line's number is a position to come back to.

An eventlog is written by jobs, so nothing in it is trusted: an entry of another shape costs that entry alone, and what
is kept of lines that are not complete has a bound.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from sidecar.domain import shell_log as shelllog
from sidecar.domain import untrusted
from sidecar.domain.partial import Part
from sidecar.domain.shell_log import WRITTEN, Redirected

Stream = Literal["stdout", "stderr", "both", "log", "all"]
"""Of an eventlog: a stream of the job's; both of them; what the job's shell says; or all of that."""

LONGEST_LINE = 1024 * 1024
"""Bytes of a line that are kept together: a longer one is handed on in parts, of which only the last ends it."""
_PARTIAL = 4 * 1024 * 1024  # bytes that are kept of all lines that are not complete
_COST = 256  # bytes that each of them costs beside its own
_RUN_SIZE, _RUN_LINES = 64 * 1024, 1000
_SLICE = 64 * 1024  # bytes of an eventlog that are decoded at once
_LONGEST_ENTRY = 4 * 1024 * 1024  # bytes of an entry over several pieces, which a job's shell does not write
_LONGEST_NAME = 100
_MOST_TIMES = 1024 * 1024  # bytes of data that is repeated
#: What the shell itself says, each as a line of JSON: the streams of these runs, and their rank.
_SAID = {"log": ("log", ""), "redirect": ("redirect", "")}


class Run(NamedTuple):
    """Some lines that one task has written in a row, each with its newline.

    A run of one line may lack the newline: it is the last one of its task, or a part of a line that is too long.
    """

    stream: str
    rank: str
    data: bytes
    length: int
    """In lines."""

    def lines(self) -> list[bytes]:
        """Return the lines by themselves."""
        if self.length == 1:
            return [self.data]
        return [line + b"\n" for line in self.data[:-1].split(b"\n")]

    def behind(self, count: int) -> Run:
        """Return the run without its first lines."""
        return Run(self.stream, self.rank, self.data.split(b"\n", count)[-1], self.length - count) if count else self


def wanted(stream: Stream, of: str) -> bool:
    """Whether a run of the stream ``of`` is a part of what is asked for."""
    if stream == "both":
        return of in WRITTEN
    return stream in ("all", of) or (stream == "log" and of in _SAID)


class _Context(msgspec.Struct, gc=False):
    stream: str = ""
    rank: str | int = ""
    data: str | None = None
    encoding: str | dict[str, Any] | None = None  # the header's is an object
    path: str = ""
    # Of other entries than data, whose own members must not cost these.
    repeat: Any = 1
    level: Any = None
    message: Any = None
    component: Any = ""
    file: Any = ""
    line: Any = 0


class _Entry(msgspec.Struct, gc=False):
    name: str
    context: _Context | None = None


_decoder = msgspec.json.Decoder(_Entry)
_NOT_READABLE = (msgspec.MsgspecError, ValueError, RecursionError)
Key = tuple[str, str]
"""A stream, and the rank of the task that writes it."""


class Assembler:
    """Puts output data entries together."""

    def __init__(self) -> None:
        self._partial: dict[Key, Part] = {}
        self._held = 0
        self._entry: Part | None = None  # the beginning of an entry that is not complete
        self._dropping = False  # the rest of an entry that is too long
        self._state: bytes | None = None
        self._found: list[Run] = []
        self.redirected: dict[str, str] = {}
        """Where a stream goes instead, by the stream's name."""
        self.unreadable = 0
        """How many entries could not be read."""
        self.reason = ""
        """Why the first of them could not."""

    @property
    def state(self) -> bytes:
        """What decides how the eventlog goes on from here; empty where nothing is begun."""
        if self._state is None:
            self._state = self._digest() if self._partial or self._entry or self._dropping else b""
        return self._state

    def _digest(self) -> bytes:
        digests = [part.digest(f"{stream} {rank}") for (stream, rank), part in self._partial.items()]
        entry = self._entry.digest("") if self._entry else b"dropping" if self._dropping else b""
        return hashlib.blake2b(b"".join(digests), digest_size=16, key=entry).digest()

    @property
    def parts(self) -> list[Part]:
        """What is begun and not complete."""
        return [*self._partial.values(), self._entry] if self._entry else list(self._partial.values())

    @property
    def open_lines(self) -> Mapping[Key, Part]:
        """The lines that are begun and not complete."""
        return self._partial

    @property
    def waiting(self) -> int:
        """Bytes of an entry that is begun and not complete: all of it is decoded when the next bytes complete it."""
        return self._entry.size if self._entry else 0

    def copy(self) -> Assembler:
        """Return another one that goes on from here."""
        other = Assembler()
        other._partial = dict(self._partial)
        other._held, other._entry, other._dropping = self._held, self._entry, self._dropping
        other.redirected = dict(self.redirected)
        return other

    def feed(self, eventlog: bytes) -> list[Run]:
        """Add a part of an output eventlog, one JSON object a line; return the lines that it completes."""
        self._state = None
        begin = 0
        if self._entry or self._dropping:
            begin = self._complete(eventlog)
        while begin < len(eventlog):
            end = eventlog.rfind(b"\n", begin, begin + _SLICE) + 1 or eventlog.find(b"\n", begin) + 1
            if not end:
                self._begin(eventlog[begin:])
                break
            self._read(eventlog[begin:end])
            begin = end
        found, self._found = self._found, []
        return found

    def rest(self) -> list[Run]:
        """Return what has no newline yet: where the eventlog ends here, nothing else belongs to it."""
        if self._entry:
            last = self.copy()
            return last.feed(b"\n") + last.rest()
        return [Run(*key, part.whole(), 1) for key, part in self._partial.items()]

    def _complete(self, eventlog: bytes) -> int:
        """Go on with the entry that was begun; return where the next one begins."""
        end = eventlog.find(b"\n") + 1
        if not self._dropping:
            self._begin(eventlog[:end] if end else eventlog)
            if end and self._entry:
                entry, self._entry = self._entry.whole(), None
                self._read(entry)
        if end:
            self._dropping = False
        return end or len(eventlog)

    def _begin(self, data: bytes) -> None:
        self._entry = self._entry.plus(data) if self._entry else Part(None, data)
        if self._entry.size > _LONGEST_ENTRY:
            self._entry, self._dropping = None, True
            self._refuse(f"an entry is longer than {_LONGEST_ENTRY} bytes")

    def _read(self, entries: bytes) -> None:
        """Add whole entries; only where they cannot be decoded all at once, one by one."""
        try:
            decoded = _decoder.decode_lines(entries)
        except _NOT_READABLE:
            self._read_each(entries)
        else:
            self._add(decoded)

    def _read_each(self, entries: bytes) -> None:
        for text in entries.split(b"\n"):  # not splitlines(): other line ends may stand in data
            if not text:
                continue
            try:
                entry = _decoder.decode(text)
            except _NOT_READABLE as exc:
                self._refuse(str(exc))
            else:
                self._add([entry])

    def _refuse(self, reason: str) -> None:
        self.unreadable += 1
        self.reason = self.reason or reason[:200]

    def _add(self, entries: Sequence[_Entry]) -> None:
        """Add entries: those of one task in a row that are whole lines, as they mostly are, are joined at once."""
        texts: list[str] = []
        size, key, written = 0, ("", ""), False  # the last: whether texts are, or would be, a task's own
        for entry in entries:
            context = entry.context
            if context is None or context.data is None or entry.name != "data":
                if said := self._other(entry):
                    if written or _SAID[entry.name] != key or size > _RUN_SIZE:
                        self._join(key, texts)
                        texts, size, key, written = [], 0, _SAID[entry.name], False
                    texts.append(said)
                    size += len(said)
                continue
            text = context.data
            if not written or context.stream != key[0] or context.rank != key[1] or size > _RUN_SIZE:
                self._join(key, texts)
                texts, size, key = [], 0, (context.stream, str(context.rank))
                written = self._known(key)
                if not written:
                    continue
            whole = context.encoding is None and text[-1:] == "\n" and context.repeat == 1
            if whole and len(text) < _SLICE and key not in self._partial:
                texts.append(text)
                size += len(text)
                continue
            self._join(key, texts)
            texts, size = [], 0
            self._add_one(key, context)
        self._join(key, texts)

    def _other(self, entry: _Entry) -> str:
        """Return what an entry that is no data says, as a line of JSON; empty where it says nothing."""
        context = entry.context
        if context is None or entry.name not in _SAID:
            return ""
        try:
            said = shelllog.read(entry.name, msgspec.structs.asdict(context))
        except ValueError as exc:
            self._refuse(str(exc))
            return ""
        if isinstance(said, Redirected):
            self.redirected[said.stream] = said.path
        return msgspec.json.encode(said).decode() + "\n"

    def _join(self, key: Key, texts: list[str]) -> None:
        if texts:
            data = "".join(texts).encode()
            count = data.count(b"\n")
            if count <= _RUN_LINES and len(data) <= _RUN_SIZE:
                self._found.append(Run(*key, data, count))
            else:
                self._emit(key, data)

    def _known(self, key: Key) -> bool:
        stream, rank = key
        if stream in WRITTEN and len(rank) <= _LONGEST_NAME:
            return True
        self._refuse(f"stream {stream[:20]!r} of task {rank[:20]!r} is none")
        return False

    def _add_one(self, key: Key, context: _Context) -> None:
        """Add an entry that may end in the middle of a line."""
        try:
            data = _data(context)
        except _NOT_READABLE as exc:
            self._refuse(str(exc))
            return
        begun = self._partial.pop(key, None)
        if begun:
            self._held -= begun.size + _COST
        first, last = data.find(b"\n") + 1, data.rfind(b"\n") + 1
        if last:
            self._emit_long(key, begun.whole() + data[:first] if begun else data[:first])
            self._emit_whole(key, data[first:last])
            begun, data = None, data[last:]
        if data:
            begun = begun.plus(data) if begun else Part(None, data)
            if begun.size > LONGEST_LINE:
                begun = Part(None, self._emit_parts(key, begun.whole()))
        if begun:
            self._partial[key] = begun
            self._held += begun.size + _COST
            if self._held > _PARTIAL:
                self._hand_on_all()

    def _hand_on_all(self) -> None:
        """Hand on a part of every line that is begun, before what is kept of them is too much."""
        self._found += [Run(*key, part.whole(), 1) for key, part in self._partial.items()]
        self._partial.clear()
        self._held = 0

    def _emit_whole(self, key: Key, data: bytes) -> None:
        """Hand on whole lines, of any length."""
        if len(data) <= LONGEST_LINE:
            self._emit(key, data)
            return
        begin = 0
        while begin < len(data):
            end = data.rfind(b"\n", begin, begin + LONGEST_LINE) + 1
            if end:
                self._emit(key, data[begin:end])
            else:
                end = data.index(b"\n", begin) + 1
                self._emit_long(key, data[begin:end])
            begin = end

    def _emit_long(self, key: Key, line: bytes) -> None:
        self._found.append(Run(*key, self._emit_parts(key, line), 1))

    def _emit_parts(self, key: Key, line: bytes) -> bytes:
        """Hand on the parts of a line that is too long, cut between characters; return the last one."""
        begin = 0
        while len(line) - begin > LONGEST_LINE:
            end = begin + LONGEST_LINE
            for back in range(4):
                if line[end - back] & 0xC0 != 0x80:
                    end -= back
                    break
            self._found.append(Run(*key, line[begin:end], 1))
            begin = end
        return line[begin:] if begin else line

    def _emit(self, key: Key, data: bytes) -> None:
        """Hand on whole lines, none of which is too long."""
        for part in _parts(data):
            self._found.append(Run(*key, part, part.count(b"\n")))


def _parts(data: bytes) -> Iterator[bytes]:
    """Cut lines into runs, of which a reader can be given one at a time."""
    begin = 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + _RUN_SIZE) + 1 or data.index(b"\n", begin) + 1
        part = data[begin:end]
        begin = end
        if part.count(b"\n") <= _RUN_LINES:
            yield part
            continue
        lines = part[:-1].split(b"\n")
        for first in range(0, len(lines), _RUN_LINES):
            yield b"\n".join(lines[first : first + _RUN_LINES]) + b"\n"


def _data(context: _Context) -> bytes:
    text = context.data or ""
    if context.encoding in (None, "UTF-8"):
        data = text.encode()
    elif context.encoding == "base64":
        data = base64.b64decode(text, validate=True)
    else:
        raise ValueError(f"encoding {str(context.encoding)[:20]!r} is none")
    if context.repeat == 1:
        return data
    if not isinstance(context.repeat, int) or not 0 <= context.repeat * len(data) <= _MOST_TIMES:
        raise ValueError(f"data of {len(data)} bytes is repeated {untrusted.shown(context.repeat)} times")
    return data * context.repeat
