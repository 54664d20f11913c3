"""How many members JSON has, told from its text.

A megabyte of JSON can be 300,000 objects, which take twenty times as much memory and a second of work. So members are
counted before anything is made of the text, and what has too many of them is refused.
"""

from __future__ import annotations

from sidecar.domain.errors import InvalidRequest

MOST = 10_000
"""Members that the arrays and objects in one parameter may have in all."""
SIZE = 80
"""Bytes that a member takes in memory beside its text, about."""

_QUOTES = 40_000  # that are looked at together; an even number: the rest begins outside of a string
_SPACE = b" \t\r\n"


def at_most(text: bytes) -> int:
    """Return a number that JSON has no more members than; quick, and too large where its strings hold commas."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def count(text: bytes, most: int = MOST) -> int:
    """Return how many members the arrays and objects of JSON have, those that are nested included.

    What is returned may be too large where it is no more than ``most``, and too small where it is more: then no more
    of the text was looked at than shows that.
    """
    if (found := at_most(text)) <= most:
        return found
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    found = 0
    while text and found <= most:
        parts = text.split(b'"', _QUOTES)  # outside of strings, inside, outside …
        text = parts.pop() if len(parts) > _QUOTES else b""
        outside = b"0".join(parts[::2]).translate(None, _SPACE)
        found += at_most(outside) - outside.count(b"[]") - outside.count(b"{}")
    return found


def weight(text: bytes, members: int) -> int:
    """Return how many bytes JSON takes once it is decoded, about."""
    return len(text) + SIZE * members


def too_many(name: str, most: int = MOST) -> str:
    """Say that a parameter has too many members."""
    return f"{name}: it has more than {most:,} members, nested ones included; send fewer."


def check(name: str, members: int, message: str) -> None:
    """Let a parameter through that does not have too many members.

    Raises:
        InvalidRequest: it has.
    """
    if members > MOST:
        raise InvalidRequest(too_many(name), message=message)
