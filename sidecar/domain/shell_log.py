"""Entries of a job's shell in an output eventlog (RFC 24): messages, and redirected streams.

The entries are untrusted: a job can write to its own log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sidecar.domain import untrusted
from sidecar.domain.members import Faults, Members

WRITTEN = ("stdout", "stderr")
"""The streams of a task."""
_MESSAGE, _NAME, _PATH = 16 * 1024, 100, 4096  # maximum sizes in bytes
#: Names of the levels in flux-job(1), from 0 on.
_LEVELS = ("FATAL", "FATAL", "FATAL", "ERROR", " WARN", "", "DEBUG", "TRACE")


class Said(msgspec.Struct, omit_defaults=True):
    """A message of a job's shell (RFC 24)."""

    level: Annotated[
        int, Meta(description="severity of RFC 5424: 0 to 2 fatal, 3 error, 4 warning, 5 notice, 6 debug, 7 trace")
    ]
    message: Annotated[str, Meta(description="text of the message")]
    rank: Annotated[str, Meta(description="rank of the shell within the job, one on each node")] = ""
    component: Annotated[str, Meta(description="part of the shell, such as a plugin")] = ""
    file: Annotated[str, Meta(description="source file of the shell")] = ""
    line: Annotated[int, Meta(description="line in the source file")] = 0

    def text(self) -> str:
        """Return the message as flux-job(1) shows it, with a newline."""
        rank = "" if self.rank in ("", "-1") else f"[{self.rank}]"  # -1: the shell does not know its rank yet
        return ": ".join(filter(None, (f"flux-shell{rank}", _LEVELS[self.level], self.component, self.message))) + "\n"


class Redirected(msgspec.Struct, omit_defaults=True):
    """A stream of some tasks that is redirected to a file (RFC 24)."""

    stream: Annotated[str, Meta(description="stdout or stderr")]
    rank: Annotated[str, Meta(description="idset of tasks")] = ""
    path: Annotated[str, Meta(description="path of the file")] = ""

    def text(self) -> str:
        """Return the entry as flux-job(1) shows it, with a newline."""
        return f"{self.rank}: {self.stream} redirected{' to ' if self.path else ''}{self.path}\n"


_said, _redirected = msgspec.json.Decoder(Said).decode, msgspec.json.Decoder(Redirected).decode


def read(name: str, context: Mapping[str, Any]) -> Said | Redirected:
    """Return the content of an entry.

    Args:
        name: of the entry: ``log`` or ``redirect``.
        context: of the entry.

    Raises:
        ValueError: it does not conform to RFC 24.
    """
    members = Members(context, name, Faults())
    rank = str(members.values.get("rank", ""))
    if name == "redirect":
        if (stream := members.text("stream", _NAME)) not in WRITTEN:
            raise ValueError(f"redirect entry with the unknown stream {untrusted.shown(stream)}")
        return Redirected(stream, untrusted.text(rank, _PATH), members.text("path", _PATH))
    level, message = members.whole("level", -1, high=len(_LEVELS) - 1, wrong=-1), members.values.get("message")
    if level < 0 or not isinstance(message, str):
        raise ValueError(
            f"log entry with the level {untrusted.shown(members.values.get('level'))}, or without a message"
        )
    return Said(
        level,
        untrusted.text(message.rstrip("\n"), _MESSAGE),
        untrusted.text(rank, _NAME),
        members.text("component", _NAME),
        members.text("file", _PATH),
        members.whole("line", 0, wrong=0),
    )


def texts(name: str, lines: Iterable[bytes]) -> list[bytes]:
    """Return entries of one name as text.

    Args:
        name: ``log`` or ``redirect``.
        lines: JSON of the entries.
    """
    decode = _said if name == "log" else _redirected
    return [decode(line).text().encode() for line in lines]
