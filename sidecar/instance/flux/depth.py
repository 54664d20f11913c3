"""How deep JSON is nested: null stands for what is nested too deeply.

Everything that is done for each bracket is done by C: of some megabytes of brackets a loop would take seconds.
"""

from __future__ import annotations

import re
from itertools import accumulate

from sidecar.domain.untrusted import DEPTH

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[]", b"{}")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # up, or (as a signed byte) down
_FROM = DEPTH // 2  # the level of what becomes null: so it is long, and there are few of them
_STRETCH = 16 * 1024  # brackets that are counted before another thread has its turn
_REST = rb'[^"\[\]{}]*+'
_AHEAD = {
    number: re.compile(rb"(?:%b(?:%b%b)*+[\[\]{}]){%d}+" % (_REST, _STRING.pattern, _REST, number), re.DOTALL)
    for number in (1024, 256, 64, 16, 4, 1)
}


def followed(text: bytes) -> bytes:
    """Return JSON of which no part is nested too deeply."""
    return text if _parts(text) < DEPTH or _shallow(text) else pruned(text)


def has_more(text: bytes, most: int) -> bool:
    """Whether there are more objects and lists in JSON than so many."""
    return _parts(text) > most and _parts(_STRING.sub(b"", text)) > most


def _parts(text: bytes) -> int:
    """Return how many objects and lists there are in JSON, at most: brackets in texts count too."""
    return text.count(b"{") + text.count(b"[")


def _shallow(text: bytes) -> bool:
    """Whether nothing is nested too deeply: each round takes the innermost brackets away."""
    rest = _STRING.sub(b"", text).translate(_BRACKETS, delete=_OTHERS)
    for _ in range(DEPTH - 1):
        if not rest:
            return True
        rest = rest.replace(b"{}", b"")
    return not rest


def pruned(text: bytes) -> bytes:
    """Put null for each part that is nested too deeply, from half of the depth on."""
    steps = _STRING.sub(b"", text).translate(_STEPS, delete=_OTHERS)
    low, deep = _reach(steps, _FROM), _reach(steps, DEPTH)
    kept: list[bytes] = []
    begin = place = passed = 0  # `place` is behind so many brackets
    found = deep.find(1)
    while found >= 0:
        first, end = low.rfind(0, 0, found) + 1, low.find(0, found)
        opening = _skip(text, _skip(text, place, first - passed), 1) - 1
        kept += (text[begin:opening], b"null")
        place = begin = len(text) if end < 0 else _skip(text, opening, end + 1 - first)
        passed = end + 1
        found = -1 if end < 0 else deep.find(1, end)
    return b"".join([*kept, text[begin:]])


def _reach(steps: bytes, level: int) -> bytes:
    """Tell of each bracket whether it and what follows it are at a level or deeper: 1 or 0."""
    view = memoryview(steps).cast("b")
    found: list[bytes] = []
    before = 0
    for begin in range(0, len(view), _STRETCH):
        stretch = view[begin : begin + _STRETCH]
        found.append(bytes(map(level.__le__, accumulate(stretch, initial=before)))[1:])
        before += sum(stretch)
    return b"".join(found)


def _skip(text: bytes, place: int, number: int) -> int:
    """Return the place behind so many brackets; the end of a text that has fewer, or is no JSON."""
    for some, pattern in _AHEAD.items():
        for _ in range(number // some):
            match = pattern.match(text, place)
            if match is None:
                return len(text)
            place = match.end()
        number %= some
    return place
