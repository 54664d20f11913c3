"""A job's output: lines of its tasks, in runs that readers get one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from sidecar.domain.shell_log import WRITTEN

Stream = Literal["stdout", "stderr", "both", "log", "all"]
"""Part of an output eventlog: one stream of the tasks, both of them, the entries of the job's shell, or everything."""

Key = tuple[str, str]
"""A stream, and the rank of the task that writes it."""

LONGEST_LINE = 1024 * 1024
"""Maximum size of a line in bytes: a longer line is split into parts, of which only the last has a newline."""
RUN_SIZE, RUN_LINES = 64 * 1024, 1000
"""Maximum size of a run of several lines in bytes, and in lines."""
LOG, REDIRECT = ("log", ""), ("redirect", "")
"""Keys of the shell's entries, each a line of JSON."""


class Run(NamedTuple):
    """Consecutive lines of one task, with their newlines.

    A run of one line may lack the newline: it is the task's last line, or a part of a line that is too long.
    """

    stream: str
    rank: str
    data: bytes
    length: int
    """Number of lines."""

    def lines(self) -> list[bytes]:
        """Return the single lines."""
        if self.length == 1:
            return [self.data]
        return [line + b"\n" for line in self.data[:-1].split(b"\n")]

    def behind(self, count: int) -> Run:
        """Return the run without its first ``count`` lines."""
        return Run(self.stream, self.rank, self.data.split(b"\n", count)[-1], self.length - count) if count else self


def wanted(stream: Stream, of: str) -> bool:
    """Whether a run of the stream ``of`` belongs to ``stream``."""
    if stream == "both":
        return of in WRITTEN
    return stream in ("all", of) or (stream == "log" and of in (LOG[0], REDIRECT[0]))


def runs(key: Key, data: bytes) -> Iterator[Run]:
    """Yield whole lines, of any length, as runs."""
    if len(data) <= LONGEST_LINE:
        yield from _runs(key, data)
        return
    begin = 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + LONGEST_LINE) + 1
        if end:
            yield from _runs(key, data[begin:end])
        else:
            end = data.index(b"\n", begin) + 1
            yield from (Run(*key, part, 1) for part in parts_of_line(data[begin:end]))
        begin = end


def parts_of_line(line: bytes) -> list[bytes]:
    """Split a line into parts of at most :data:`LONGEST_LINE` bytes, between UTF-8 characters."""
    parts = []
    begin = 0
    while len(line) - begin > LONGEST_LINE:
        end = begin + LONGEST_LINE
        for back in range(4):
            if line[end - back] & 0xC0 != 0x80:
                end -= back
                break
        parts.append(line[begin:end])
        begin = end
    return [*parts, line[begin:] if begin else line]


def _runs(key: Key, data: bytes) -> Iterator[Run]:
    """Yield whole lines, none of which is too long, as runs of limited size."""
    begin = 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + RUN_SIZE) + 1 or data.index(b"\n", begin) + 1
        part = data[begin:end]
        begin = end
        if (count := part.count(b"\n")) <= RUN_LINES:
            yield Run(*key, part, count)
            continue
        lines = part[:-1].split(b"\n")
        for first in range(0, len(lines), RUN_LINES):
            some = lines[first : first + RUN_LINES]
            yield Run(*key, b"\n".join(some) + b"\n", len(some))
