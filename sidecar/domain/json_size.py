"""The number of members of JSON, counted in its text before it is decoded.

A megabyte of JSON may contain 300,000 objects, which need twenty times as much memory and a second to decode. So the
members are counted first, and JSON with too many of them is rejected.
"""

from __future__ import annotations

from sidecar.domain.errors import InvalidRequest

MOST = 10_000
"""Maximum number of members in the arrays and objects of a parameter."""
SIZE = 80
"""Approximate memory of a member in bytes, in addition to its text."""

_QUOTES = 40_000  # processed at once; an even number, so that the rest begins outside of a string
_SPACE = b" \t\r\n"


def at_most(text: bytes) -> int:
    """Return an upper bound of the number of members, which is fast; commas in strings are counted too."""
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def count(text: bytes, limit: int = MOST) -> int:
    """Return the number of members of the arrays and objects of JSON, nested ones included.

    A result up to ``limit`` may be too large. A result over ``limit`` may be too small: counting stops there.
    """
    if (number := at_most(text)) <= limit:
        return number
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    number = 0
    while text and number <= limit:
        parts = text.split(b'"', _QUOTES)  # outside of strings, inside, outside …
        text = parts.pop() if len(parts) > _QUOTES else b""
        outside = b"0".join(parts[::2]).translate(None, _SPACE)
        number += at_most(outside) - outside.count(b"[]") - outside.count(b"{}")
    return number


def weight(text: bytes, members: int) -> int:
    """Return the approximate memory of JSON in bytes after it is decoded."""
    return len(text) + SIZE * members


def too_many(name: str, limit: int = MOST) -> str:
    """Return the error for a parameter with too many members."""
    return f"{name}: it has more than {limit:,} members, nested ones included; send fewer."


def check(name: str, members: int, message: str) -> None:
    """Check the number of members of a parameter.

    Raises:
        InvalidRequest: it has too many.
    """
    if members > MOST:
        raise InvalidRequest(too_many(name), message=message)
