"""Idsets, Flux's text form of sets of ranks and cores ("0-3,7"; RFC 22).

A set is represented by its ranges: ten characters can contain 4 billion IDs, too many for a list.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Range = tuple[int, int]
"""First and last ID."""

LAST = 2**32 - 2
"""The largest ID of Flux's idsets."""

_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_RANGES = 65536
_IDS = 2**20


def ranges(text: str) -> list[Range]:
    """Return the ranges of an idset in ascending order; adjacent ones are merged.

    >>> ranges("[5,0-1,2]")
    [(0, 2), (5, 5)]

    Raises:
        ValueError: the text is not an idset.
    """
    parts = []
    for part in filter(None, text.strip().removeprefix("[").removesuffix("]").split(",", _RANGES)):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if not first <= last <= LAST:
            raise ValueError(f"{part[:40]!r} is not a part of an idset, such as 0-3,7")
        parts.append((first, last))
    return union(parts)


def ranges_of(value: object) -> list[Range]:
    """Return the ranges of an idset in JSON: a text, or a single number.

    Raises:
        ValueError: the value is not an idset.
    """
    if not isinstance(value, str | int):
        raise ValueError(f"{type(value).__name__} is not an idset")
    return ranges(str(value))


def union(parts: Iterable[Range]) -> list[Range]:
    """Return ranges in ascending order; those that overlap or are adjacent are merged."""
    merged: list[Range] = []
    for first, last in sorted(parts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def size(parts: Iterable[Range]) -> int:
    """Return the number of IDs in ranges that do not overlap."""
    return sum(last - first + 1 for first, last in parts)


def parse(text: str) -> list[int]:
    """Return the IDs of an idset in ascending order.

    >>> parse("[0-2,5]")
    [0, 1, 2, 5]

    Raises:
        ValueError: the text is not an idset, or has too many IDs for a list.
    """
    parts = ranges(text)
    if (number := size(parts)) > _IDS:
        raise ValueError(f"{text[:40]!r} is an idset of {number} ids, more than {_IDS}")
    return [each for first, last in parts for each in range(first, last + 1)]


def upto(text: str, last: int) -> list[int]:
    """Return the IDs of an idset up to ``last``; an empty list if the text is not an idset."""
    try:
        parts = ranges(text)
    except ValueError:
        return []
    return [each for begin, end in parts for each in range(begin, min(end, last) + 1)]


def encode(ids: Iterable[int], *, brackets: bool = False) -> str:
    """Return IDs as an idset; with ``brackets`` as ``[0-2]``, except a single ID.

    >>> encode([5, 0, 1, 2])
    '0-2,5'
    """
    return write(union((number, number) for number in ids), brackets=brackets)


def write(parts: Sequence[Range], *, brackets: bool = False) -> str:
    """Return ranges as an idset; see :func:`encode`."""
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
    single = len(parts) == 1 and parts[0][0] == parts[0][1]
    return f"[{text}]" if brackets and text and not single else text
