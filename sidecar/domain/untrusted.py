"""Values that others have written (users, plugins, a damaged file): read as what they should be, or not at all.

A job's journal may hold any JSON in any member: of another type, huge, deep, or no text at all. What is read here has
the wanted type and a bounded size, whatever it was; what is wrong is noted once for each kind, and costs that alone.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

DEPTH = 64
"""How deep JSON is followed. SQLite, jq and Python's own stack give up at different depths, all of them larger."""
LATEST = 253402300799.0
"""The last second of the year 9999: no time that anything can show is later."""
COUNT = 2**31 - 1
"""Flux counts nodes, cores and tasks in 32 bits."""

_SHOWN = 80
_KINDS = 32
_ESCAPED = 6  # bytes that one character of ASCII takes as JSON, at most
_CUT = "…"
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Faults:
    """What was wrong in what is told of one job: one example of each kind, and not more kinds than a log can take."""

    __slots__ = ("_known", "_new")

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: dict[str, str] = {}

    def note(self, kind: str, detail: str) -> None:
        """Note a fault, unless its kind is known.

        Args:
            kind: which member, and where; never made of what the job says.
            detail: what is wrong with it.
        """
        if kind not in self._known and len(self._known) < _KINDS:
            self._known.add(kind)
            self._new[kind] = detail

    def take(self) -> dict[str, str]:
        """Return the kinds that were noted since the last time, with their details."""
        if not self._new:
            return {}
        found, self._new = self._new, {}
        return found


class Members:
    """The members of a JSON object, each read as what it should be.

    Args:
        value: the object; anything else counts as one without members, and is a fault.
        where: what it is, for faults: ``exception``, ``jobspec.attributes``.
        faults: takes what is wrong.
    """

    __slots__ = ("_faults", "_where", "values")

    def __init__(self, value: Any, where: str, faults: Faults) -> None:
        self._where = where
        self._faults = faults
        self.values: Mapping[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            faults.note(where, f"expected an object; got {shown(value)}")

    def _wrong(self, name: str, expected: str) -> None:
        self._faults.note(f"{self._where}.{name}", f"expected {expected}; got {shown(self.values[name])}")

    def text(self, name: str, most: int, default: str = "") -> str:
        """Return a text of at most so many bytes; a longer one is cut, which is no fault."""
        if name not in self.values:
            return default
        value = self.values[name]
        if not isinstance(value, str):
            self._wrong(name, "a text")
            return default
        return text(value, most)

    def whole(self, name: str, default: int, *, low: int = 0, high: int = COUNT, wrong: int | None = None) -> int:
        """Return a whole number within bounds; ``default`` where there is none, ``wrong`` where it is another value."""
        if name not in self.values:
            return default
        value = self.values[name]
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._wrong(name, f"a whole number from {low} to {high}")
        return default if wrong is None else wrong

    def seconds(self, name: str) -> float | None:
        """Return a time or duration; None where there is none, or what is there is none."""
        if name not in self.values:
            return None
        value = seconds(self.values[name])
        if value is None:
            self._wrong(name, "seconds")
        return value

    def inner(self, name: str) -> Members:
        """Return an object within this one; one that is not there has no members."""
        return Members(self.values.get(name, {}), f"{self._where}.{name}", self._faults)

    def items(self, name: str) -> list[Any]:
        """Return a list; empty where there is none."""
        value = self.values.get(name, [])
        if isinstance(value, list):
            return value
        self._wrong(name, "a list")
        return []

    def read(self, name: str, expected: str, read: Callable[[Any], Any], default: Any) -> Any:
        """Return what ``read`` makes of a member; ``default`` where it raises ValueError, or there is none."""
        if name not in self.values:
            return default
        try:
            return read(self.values[name])
        except ValueError:
            self._wrong(name, expected)
            return default


def text(value: str, most: int) -> str:
    """Return a text that can be stored and sent everywhere: Unicode without NUL, of at most so many bytes of JSON.

    What is kept is JSON, where a control character takes six bytes.
    """
    if len(value) * _ESCAPED <= most and value.isascii() and "\0" not in value:
        return value
    # No character takes less than a byte: what is behind so many of them is not looked at.
    kept = value[: most + 1].replace("\0", "\ufffd").encode(errors="replace").decode()
    if json_size(kept) <= most:
        return kept
    kept = kept[: max(0, most - len(_CUT.encode()))]
    fits = bisect_right(range(len(kept)), most - len(_CUT.encode()), key=lambda end: json_size(kept[: end + 1]))
    return kept[:fits] + _CUT


def json_size(value: str) -> int:
    """Return how many bytes a text takes as JSON, without its quotes."""
    return len(_encode(value)) - 2


def shortened(raw: bytes | msgspec.Raw, most: int) -> dict[str, Any]:
    """Return the object that JSON is, in at most so many bytes of JSON; an empty one where it is none.

    A text that is too long is cut, with … at its end; … stands for any other value that is too large. Where there are
    more members than fit, those that are small stay, and one more is named ….
    """
    try:
        members = _members(raw)
    except (ValueError, RecursionError):
        return {}
    left = most - len(_encode({_CUT: _CUT}))
    least = len(_encode(_CUT))
    fit: list[str] = []
    for name in sorted(members, key=lambda name: len(name) + len(members[name])):
        size = json_size(name) + len('"":,') + min(len(members[name]), least)
        if size <= left:
            fit.append(name)
            left -= size
    found: dict[str, Any] = {}
    for place, name in enumerate(fit):  # what a small one leaves of its share is for the others
        share, value = left // (len(fit) - place), members[name]
        if len(value) <= least + share:
            found[name] = member(value)
            left -= max(0, len(value) - least)
            continue
        known = member(value) if bytes(value).startswith(b'"') else None
        found[name] = text(known, share + len(_CUT.encode())) if isinstance(known, str) else _CUT
        left -= json_size(found[name]) - len(_CUT.encode())
    in_order = {name: found[name] for name in members if name in found}
    return in_order if len(fit) == len(members) else {**in_order, _CUT: _CUT}


def member(raw: bytes | msgspec.Raw) -> Any:
    """Return the value that JSON is; None where it is none, or nested too deeply."""
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None
    return None if too_deep(value) else value


def is_text(value: str) -> bool:
    """Whether a text is Unicode: one from the system may hold bytes that are not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def unusable(value: Any) -> str:
    """Say why a text, or one within an object or a list, can be passed to no program; nothing when it can be."""
    if isinstance(value, str):
        if "\0" in value:
            return "a NUL byte cannot be part of it"
        return "" if is_text(value) else "it is not valid Unicode (a lone surrogate)"
    if isinstance(value, dict):
        return next(filter(None, (unusable(part) for pair in value.items() for part in pair)), "")
    if isinstance(value, list):
        return next(filter(None, map(unusable, value)), "")
    return ""


def digits(text: str) -> int | None:
    """Return the whole number that a text is, None where it is none of at most nine digits.

    ``str.isdecimal`` lets digits of other scripts through, and ``int`` fails for more than 4,300 of them.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def seconds(value: Any) -> float | None:
    """Return a number as a time or duration (seconds), None where it is none that a clock could show."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST:
        return float(value)
    return None


def shown(value: Any) -> str:
    """Show a value in a message, however large or deep it is."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**64:
        return f"a number of {value.bit_length()} bits"
    return repr(text(value, _SHOWN) if isinstance(value, str) else value)


def encode(value: Any) -> bytes:
    """Return a value as JSON, whatever it holds: what JSON, or a reader of it, cannot take becomes null."""
    try:
        return _encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _encode(plain(value))


def decoded(raw: bytes) -> dict[str, Any]:
    """Return the object that JSON from the store is; an empty one where it is none."""
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def plain(value: Any, depth: int = DEPTH) -> Any:
    """Return a value of which JSON can be made: text that is Unicode, finite numbers, not too deep."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth and isinstance(value, dict):
        return {plain(str(name)): plain(each, depth - 1) for name, each in value.items()}
    if depth and isinstance(value, list):
        return [plain(each, depth - 1) for each in value]
    return None


def is_plain(value: Any) -> bool:
    """Whether JSON can be made of a value as it is, see :func:`plain`, however deep it is."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, str):
            if not is_text(part):
                return False
        elif isinstance(part, int):
            if not -(2**63) <= part < 2**64:
                return False
        elif isinstance(part, float):
            if not math.isfinite(part):
                return False
        elif isinstance(part, dict):
            parts += part
            parts += part.values()
        elif isinstance(part, list):
            parts += part
        elif part is not None:
            return False
    return True


def too_deep(value: Any, most: int = DEPTH) -> bool:
    """Whether objects and lists are nested in a value more than so many times."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        parts = (part for each in level for part in (each.values() if isinstance(each, dict) else each))
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return False
    return bool(level)
