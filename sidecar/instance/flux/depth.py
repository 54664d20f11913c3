"""Limits the depth of JSON: null replaces values that are nested too deeply.

All work per bracket is done in C: for megabytes of brackets a Python loop would take seconds.
"""

from __future__ import annotations

import re
from itertools import accumulate

from sidecar.domain.untrusted import DEPTH

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_BRACKETS = bytes.maketrans(b"[]", b"{}")
_OTHERS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # up, or (as a signed byte) down
_CUT_LEVEL = DEPTH // 2  # the level of values that become null: low, so that they are long and few
_SLICE = 16 * 1024  # brackets that are counted without a chance for other threads to run
_REST = rb'[^"\[\]{}]*+'
_SKIP = {
    number: re.compile(rb"(?:%b(?:%b%b)*+[\[\]{}]){%d}+" % (_REST, _STRING.pattern, _REST, number), re.DOTALL)
    for number in (1024, 256, 64, 16, 4, 1)
}


def limited(text: bytes) -> bytes:
    """Return the JSON with no value that is nested too deeply."""
    return text if _brackets(text) < DEPTH or _shallow(text) else pruned(text)


def exceeds(text: bytes, count: int) -> bool:
    """Whether JSON has more objects and arrays than ``count``."""
    return _brackets(text) > count and _brackets(_STRING.sub(b"", text)) > count


def _brackets(text: bytes) -> int:
    """Return an upper bound for the number of objects and arrays: it includes brackets in strings."""
    return text.count(b"{") + text.count(b"[")


def _shallow(text: bytes) -> bool:
    """Whether nothing is nested too deeply: each round removes the innermost brackets."""
    rest = _STRING.sub(b"", text).translate(_BRACKETS, delete=_OTHERS)
    for _ in range(DEPTH - 1):
        if not rest:
            return True
        rest = rest.replace(b"{}", b"")
    return not rest


def pruned(text: bytes) -> bytes:
    """Replace each value that is nested too deeply by null, from half of the allowed depth on."""
    steps = _STRING.sub(b"", text).translate(_STEPS, delete=_OTHERS)
    low, deep = _at_least(steps, _CUT_LEVEL), _at_least(steps, DEPTH)
    kept: list[bytes] = []
    begin = offset = passed = 0  # `passed` brackets are before `offset`
    index = deep.find(1)
    while index >= 0:
        first, end = low.rfind(0, 0, index) + 1, low.find(0, index)
        opening = _skip(text, _skip(text, offset, first - passed), 1) - 1
        kept += (text[begin:opening], b"null")
        offset = begin = len(text) if end < 0 else _skip(text, opening, end + 1 - first)
        passed = end + 1
        index = -1 if end < 0 else deep.find(1, end)
    return b"".join([*kept, text[begin:]])


def _at_least(steps: bytes, level: int) -> bytes:
    """Return, for each bracket, 1 if the text after it is at a level or deeper, else 0."""
    view = memoryview(steps).cast("b")
    flags: list[bytes] = []
    before = 0
    for begin in range(0, len(view), _SLICE):
        part = view[begin : begin + _SLICE]
        flags.append(bytes(map(level.__le__, accumulate(part, initial=before)))[1:])
        before += sum(part)
    return b"".join(flags)


def _skip(text: bytes, offset: int, number: int) -> int:
    """Return the offset after ``number`` more brackets; the end of the text if it has fewer, or is not JSON."""
    for size, pattern in _SKIP.items():
        for _ in range(number // size):
            match = pattern.match(text, offset)
            if match is None:
                return len(text)
            offset = match.end()
        number %= size
    return offset
