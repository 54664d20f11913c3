"""Idsets, the way Flux writes sets of ranks and cores ("0-3,7"; RFC 22).

A set is kept as its ranges: ten characters can name four thousand million ids, which nothing here ever lists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Range = tuple[int, int]
"""First and last id."""

LAST = 2**32 - 2
"""The largest id of Flux's own idsets."""

_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_RANGES = 65536
_IDS = 2**20


def ranges(text: str) -> list[Range]:
    """Return the ranges of an idset in ascending order, none next to another.

    >>> ranges("[5,0-1,2]")
    [(0, 2), (5, 5)]

    Raises:
        ValueError: the text is not an idset.
    """
    found = []
    for part in filter(None, text.strip().removeprefix("[").removesuffix("]").split(",", _RANGES)):
        match = _RANGE.fullmatch(part)
        first = int(match[1]) if match else 0
        last = int(match[2] or first) if match else -1
        if not first <= last <= LAST:
            raise ValueError(f"{part[:40]!r} is not a part of an idset, such as 0-3,7")
        found.append((first, last))
    return union(found)


def ranges_of(value: object) -> list[Range]:
    """Return the ranges of an idset as JSON has it: a text, or a single number.

    Raises:
        ValueError: the value is not an idset.
    """
    if not isinstance(value, str | int):
        raise ValueError(f"{type(value).__name__} is not an idset")
    return ranges(str(value))


def union(found: Iterable[Range]) -> list[Range]:
    """Return ranges in ascending order, those together that overlap or touch."""
    merged: list[Range] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return merged


def size(of: Iterable[Range]) -> int:
    """Return how many ids are in ranges that do not overlap."""
    return sum(last - first + 1 for first, last in of)


def parse(text: str) -> list[int]:
    """Return the ids of an idset in ascending order.

    >>> parse("[0-2,5]")
    [0, 1, 2, 5]

    Raises:
        ValueError: the text is not an idset, or one of more ids than a list should hold.
    """
    found = ranges(text)
    if (number := size(found)) > _IDS:
        raise ValueError(f"{text[:40]!r} is an idset of {number} ids, more than {_IDS}")
    return [each for first, last in found for each in range(first, last + 1)]


def upto(text: str, last: int) -> list[int]:
    """Return the ids of an idset that are not larger than ``last``; none of a text that is not an idset."""
    try:
        found = ranges(text)
    except ValueError:
        return []
    return [each for begin, end in found for each in range(begin, min(end, last) + 1)]


def encode(ids: Iterable[int], *, brackets: bool = False) -> str:
    """Write ids as an idset; with ``brackets`` as ``[0-2]``, unless it is a single id.

    >>> encode([5, 0, 1, 2])
    '0-2,5'
    """
    return write(union((number, number) for number in ids), brackets=brackets)


def write(found: Sequence[Range], *, brackets: bool = False) -> str:
    """Write ranges as an idset; see :func:`encode`."""
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in found)
    single = len(found) == 1 and found[0][0] == found[0][1]
    return f"[{text}]" if brackets and text and not single else text
