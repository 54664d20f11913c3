"""What a job's shell says in an output eventlog (RFC 24): messages, and streams that go elsewhere.

Nothing in it is trusted: a job can write into its own log.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from sidecar.domain import untrusted

WRITTEN = ("stdout", "stderr")
"""The streams of a task."""
_MESSAGE, _NAME, _PATH = 16 * 1024, 100, 4096  # the most bytes of each
#: How flux-job(1) calls the levels, from 0 on.
_LEVELS = ("FATAL", "FATAL", "FATAL", "ERROR", " WARN", "", "DEBUG", "TRACE")


class Said(msgspec.Struct, omit_defaults=True):
    """A message of a job's shell (RFC 24)."""

    level: Annotated[
        int, Meta(description="severity of RFC 5424: 0 to 2 fatal, 3 error, 4 warning, 5 notice, 6 debug, 7 trace")
    ]
    message: str
    rank: Annotated[str, Meta(description="rank of the shell within the job, one on each node")] = ""
    component: Annotated[str, Meta(description="part of the shell, such as a plugin")] = ""
    file: str = ""
    line: int = 0

    def text(self) -> str:
        """Return the message as flux-job(1) shows it, with its newline."""
        rank = "" if self.rank in ("", "-1") else f"[{self.rank}]"  # of a shell that knows no rank yet
        return ": ".join(filter(None, (f"flux-shell{rank}", _LEVELS[self.level], self.component, self.message))) + "\n"


class Redirected(msgspec.Struct, omit_defaults=True):
    """Where a stream of some tasks goes instead (RFC 24)."""

    stream: str
    rank: Annotated[str, Meta(description="idset of tasks")] = ""
    path: str = ""

    def text(self) -> str:
        """Return it as flux-job(1) shows it, with its newline."""
        return f"{self.rank}: {self.stream} redirected{' to ' if self.path else ''}{self.path}\n"


_said, _redirected = msgspec.json.Decoder(Said).decode, msgspec.json.Decoder(Redirected).decode


def read(name: str, context: Mapping[str, Any]) -> Said | Redirected:
    """Return what an entry says.

    Args:
        name: of the entry: ``log`` or ``redirect``.
        context: of the entry.

    Raises:
        ValueError: it is not as RFC 24 says.
    """
    members = untrusted.Members(context, name, untrusted.Faults())
    rank = str(members.values.get("rank", ""))
    if name == "redirect":
        if (stream := members.text("stream", _NAME)) not in WRITTEN:
            raise ValueError(f"{untrusted.shown(stream)} is redirected, which is no stream")
        return Redirected(stream, untrusted.text(rank, _PATH), members.text("path", _PATH))
    level, message = members.whole("level", -1, high=len(_LEVELS) - 1, wrong=-1), members.values.get("message")
    if level < 0 or not isinstance(message, str):
        raise ValueError(f"a log entry has the level {untrusted.shown(members.values.get('level'))}, or no message")
    return Said(
        level,
        untrusted.text(message.rstrip("\n"), _MESSAGE),
        untrusted.text(rank, _NAME),
        members.text("component", _NAME),
        members.text("file", _PATH),
        members.whole("line", 0, wrong=0),
    )


def texts(name: str, lines: Iterable[bytes]) -> list[bytes]:
    """Return lines of JSON of entries of one name as lines of text."""
    decode = _said if name == "log" else _redirected
    return [decode(line).text().encode() for line in lines]
