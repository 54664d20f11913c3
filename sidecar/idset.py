"""Idsets, the way Flux writes sets of ranks and cores ("0-3,7"; RFC 22)."""

from __future__ import annotations

from collections.abc import Iterable


def parse(text: str) -> list[int]:
    """Return the ids of an idset in ascending order.

    >>> parse("[0-2,5]")
    [0, 1, 2, 5]

    Raises:
        ValueError: the text is not an idset.
    """
    text = text.strip().removeprefix("[").removesuffix("]")
    ids: set[int] = set()
    for part in filter(None, text.split(",")):
        first, dash, last = part.partition("-")
        ids.update(range(int(first), int(last if dash else first) + 1))
    return sorted(ids)


def encode(ids: Iterable[int], *, brackets: bool = False) -> str:
    """Write ids as an idset; with ``brackets`` as ``[0-2]``, unless it is a single id.

    >>> encode([5, 0, 1, 2])
    '0-2,5'
    """
    ranges: list[list[int]] = []
    for number in sorted(set(ids)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)
    single = len(ranges) == 1 and ranges[0][0] == ranges[0][1]
    return f"[{text}]" if brackets and text and not single else text
