"""A job's output from its output eventlog (RFC 24), for both instances.

The eventlog contains chunks: split lines, bytes in base64, tasks and streams interleaved. :class:`Assembler` joins
those of each stream of a task, so that a line is whole, and lines stand in the order in which they were completed. The
same eventlog always yields the same lines, so a line's number is a position to resume at.

Jobs write eventlogs, so they are untrusted: an invalid entry is skipped, and the memory of incomplete lines is limited.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sidecar.domain import output, shell_log, untrusted
from sidecar.domain.output import Key, Run
from sidecar.domain.partial import Part
from sidecar.domain.shell_log import WRITTEN, Redirected

_INCOMPLETE = 4 * 1024 * 1024  # memory of all incomplete lines in bytes
_COST = 256  # memory of an incomplete line in bytes, in addition to its data
_SLICE = 64 * 1024  # bytes of an eventlog that are decoded at once
_LONGEST_ENTRY = 4 * 1024 * 1024  # bytes of an entry over several chunks; no shell writes longer ones
_LONGEST_NAME = 100
_REPEATED = 1024 * 1024  # bytes of data with a repeat count
_SHELL_KEYS = {"log": output.LOG, "redirect": output.REDIRECT}


class _Context(msgspec.Struct, gc=False):
    stream: str = ""
    rank: str | int = ""
    data: str | None = None
    encoding: str | dict[str, Any] | None = None  # an object in the header
    path: str = ""
    # Members of other entries than data; of any type, so that they cannot make a data entry invalid.
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
_INVALID = (msgspec.MsgspecError, ValueError, RecursionError)


class Assembler:
    """Joins the data entries of an output eventlog to lines."""

    def __init__(self) -> None:
        self._partial: dict[Key, Part] = {}
        self._held = 0
        self._entry: Part | None = None  # the start of an incomplete entry
        self._dropping = False  # the rest of an entry that is too long
        self._state: bytes | None = None
        self._runs: list[Run] = []
        self.redirected: dict[str, str] = {}
        """Paths of redirected streams, by the stream's name."""
        self.unreadable = 0
        """Number of invalid entries."""
        self.reason = ""
        """Why the first of them is invalid."""

    @property
    def state(self) -> bytes:
        """Digest of the incomplete lines and entry, on which the following lines depend; empty without them."""
        if self._state is None:
            self._state = self._digest() if self._partial or self._entry or self._dropping else b""
        return self._state

    def _digest(self) -> bytes:
        digests = [part.digest(f"{stream} {rank}") for (stream, rank), part in self._partial.items()]
        entry = self._entry.digest("") if self._entry else b"dropping" if self._dropping else b""
        return hashlib.blake2b(b"".join(digests), digest_size=16, key=entry).digest()

    @property
    def parts(self) -> list[Part]:
        """Incomplete lines, and the incomplete entry."""
        return [*self._partial.values(), self._entry] if self._entry else list(self._partial.values())

    @property
    def open_lines(self) -> Mapping[Key, Part]:
        """Incomplete lines."""
        return self._partial

    @property
    def waiting(self) -> int:
        """Size of the incomplete entry in bytes, all of which are decoded with the next chunk."""
        return self._entry.size if self._entry else 0

    def copy(self) -> Assembler:
        """Return an assembler in the same state."""
        other = Assembler()
        other._partial = dict(self._partial)
        other._held, other._entry, other._dropping = self._held, self._entry, self._dropping
        other.redirected = dict(self.redirected)
        return other

    def feed(self, eventlog: bytes) -> list[Run]:
        """Process a chunk of an output eventlog, one JSON object per line; return the lines that it completes."""
        self._state = None
        begin = 0
        if self._entry or self._dropping:
            begin = self._complete_entry(eventlog)
        while begin < len(eventlog):
            end = eventlog.rfind(b"\n", begin, begin + _SLICE) + 1 or eventlog.find(b"\n", begin) + 1
            if not end:
                self._begin_entry(eventlog[begin:])
                break
            self._read(eventlog[begin:end])
            begin = end
        runs, self._runs = self._runs, []
        return runs

    def rest(self) -> list[Run]:
        """Return the lines without a newline at the end of an eventlog."""
        if self._entry:
            last = self.copy()
            return last.feed(b"\n") + last.rest()
        return [Run(*key, part.whole(), 1) for key, part in self._partial.items()]

    def _complete_entry(self, eventlog: bytes) -> int:
        """Continue the incomplete entry; return the position after it."""
        end = eventlog.find(b"\n") + 1
        if not self._dropping:
            self._begin_entry(eventlog[:end] if end else eventlog)
            if end and self._entry:
                entry, self._entry = self._entry.whole(), None
                self._read(entry)
        if end:
            self._dropping = False
        return end or len(eventlog)

    def _begin_entry(self, data: bytes) -> None:
        self._entry = self._entry.plus(data) if self._entry else Part(None, data)
        if self._entry.size > _LONGEST_ENTRY:
            self._entry, self._dropping = None, True
            self._refuse(f"an entry is longer than {_LONGEST_ENTRY} bytes")

    def _read(self, entries: bytes) -> None:
        """Process whole entries: all at once, or one by one if one of them is invalid."""
        try:
            decoded = _decoder.decode_lines(entries)
        except _INVALID:
            self._read_each(entries)
        else:
            self._add(decoded)

    def _read_each(self, entries: bytes) -> None:
        for text in entries.split(b"\n"):  # not splitlines(): data may contain other line ends
            if not text:
                continue
            try:
                entry = _decoder.decode(text)
            except _INVALID as exc:
                self._refuse(str(exc))
            else:
                self._add([entry])

    def _refuse(self, reason: str) -> None:
        self.unreadable += 1
        self.reason = self.reason or reason[:200]

    def _add(self, entries: Sequence[_Entry]) -> None:
        """Process entries: consecutive ones of a task that are whole lines, the usual case, are joined at once."""
        texts: list[str] = []
        size, key, written = 0, ("", ""), False  # written: whether ``texts`` are of a task
        for entry in entries:
            context = entry.context
            if context is None or context.data is None or entry.name != "data":
                if said := self._shell_entry(entry):
                    if written or _SHELL_KEYS[entry.name] != key or size > output.RUN_SIZE:
                        self._join(key, texts)
                        texts, size, key, written = [], 0, _SHELL_KEYS[entry.name], False
                    texts.append(said)
                    size += len(said)
                continue
            text = context.data
            if not written or context.stream != key[0] or context.rank != key[1] or size > output.RUN_SIZE:
                self._join(key, texts)
                texts, size, key = [], 0, (context.stream, str(context.rank))
                written = self._is_known(key)
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

    def _shell_entry(self, entry: _Entry) -> str:
        """Return an entry of the job's shell as a line of JSON; empty for any other entry, or an invalid one."""
        context = entry.context
        if context is None or entry.name not in _SHELL_KEYS:
            return ""
        try:
            said = shell_log.read(entry.name, msgspec.structs.asdict(context))
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
            if count <= output.RUN_LINES and len(data) <= output.RUN_SIZE:
                self._runs.append(Run(*key, data, count))
            else:
                self._runs += output.runs(key, data)

    def _is_known(self, key: Key) -> bool:
        stream, rank = key
        if stream in WRITTEN and len(rank) <= _LONGEST_NAME:
            return True
        self._refuse(f"unknown stream {stream[:20]!r} of task {rank[:20]!r}")
        return False

    def _add_one(self, key: Key, context: _Context) -> None:
        """Process an entry that may end within a line."""
        try:
            data = _data(context)
        except _INVALID as exc:
            self._refuse(str(exc))
            return
        partial = self._partial.pop(key, None)
        if partial:
            self._held -= partial.size + _COST
        first, last = data.find(b"\n") + 1, data.rfind(b"\n") + 1
        if last:
            line = partial.whole() + data[:first] if partial else data[:first]
            self._runs += (Run(*key, part, 1) for part in output.parts_of_line(line))
            self._runs += output.runs(key, data[first:last])
            partial, data = None, data[last:]
        if data:
            partial = partial.plus(data) if partial else Part(None, data)
            if partial.size > output.LONGEST_LINE:
                *parts, rest = output.parts_of_line(partial.whole())
                self._runs += (Run(*key, part, 1) for part in parts)
                partial = Part(None, rest)
        if partial:
            self._partial[key] = partial
            self._held += partial.size + _COST
            if self._held > _INCOMPLETE:
                self._flush()

    def _flush(self) -> None:
        """Return the incomplete lines as parts, before they use too much memory."""
        self._runs += [Run(*key, part.whole(), 1) for key, part in self._partial.items()]
        self._partial.clear()
        self._held = 0


def _data(context: _Context) -> bytes:
    text = context.data or ""
    if context.encoding in (None, "UTF-8"):
        data = text.encode()
    elif context.encoding == "base64":
        data = base64.b64decode(text, validate=True)
    else:
        raise ValueError(f"unknown encoding {str(context.encoding)[:20]!r}")
    if context.repeat == 1:
        return data
    if not isinstance(context.repeat, int) or not 0 <= context.repeat * len(data) <= _REPEATED:
        raise ValueError(f"data of {len(data)} bytes is repeated {untrusted.shown(context.repeat)} times")
    return data * context.repeat
