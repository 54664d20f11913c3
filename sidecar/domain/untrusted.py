"""Values from users, plugins and damaged files: bounded, and safe to store, to log and to encode as JSON."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Any

import msgspec

DEPTH = 64
"""Maximum nesting of JSON. SQLite, jq and Python's stack have different limits, all of them higher."""
LATEST = 253402300799.0
"""The last second of the year 9999, the latest time that every library can represent."""
COUNT = 2**31 - 1
"""Maximum of the 32 bits in which Flux counts nodes, cores and tasks."""

_SHOWN = 80
_ESCAPED = 6  # maximum of bytes for an ASCII character in JSON
_CUT = "…"
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def text(value: str, limit: int) -> str:
    """Return a text that every program can store and send: Unicode without NUL, at most ``limit`` bytes as JSON.

    The limit applies to JSON because the text is stored as such, and a control character then takes six bytes.
    """
    if len(value) * _ESCAPED <= limit and value.isascii() and "\0" not in value:
        return value
    # A character takes at least one byte, so those after the limit are not examined.
    kept = value[: limit + 1].replace("\0", "\ufffd").encode(errors="replace").decode()
    if json_size(kept) <= limit:
        return kept
    kept = kept[: max(0, limit - len(_CUT.encode()))]
    length = bisect_right(range(len(kept)), limit - len(_CUT.encode()), key=lambda end: json_size(kept[: end + 1]))
    return kept[:length] + _CUT


def excerpt(value: str, limit: int) -> str:
    """Return a text of at most ``limit`` characters, without lone surrogates; of a longer one its start and end."""
    if not value.isascii():
        value = value.encode(errors="replace").decode()
    if len(value) <= limit:
        return value
    end = limit // 4
    return f"{value[: limit - end - 5]} ... {value[-end:]}"


def json_size(value: str) -> int:
    """Return the size of a text as JSON in bytes, without quotes."""
    return len(_encode(value)) - 2


def shortened(raw: bytes | msgspec.Raw, limit: int) -> dict[str, Any]:
    """Return a JSON object, shortened to ``limit`` bytes of JSON; an empty one for any other value.

    A text that is too long is truncated and ends with …; any other value that is too large becomes …. If there are
    more members than fit, the smallest remain, and there is another one named ….
    """
    try:
        members = _members(raw)
    except (ValueError, RecursionError):
        return {}
    left = limit - len(_encode({_CUT: _CUT}))
    least = len(_encode(_CUT))
    names: list[str] = []
    for name in sorted(members, key=lambda name: len(name) + len(members[name])):
        size = json_size(name) + len('"":,') + min(len(members[name]), least)
        if size <= left:
            names.append(name)
            left -= size
    kept: dict[str, Any] = {}
    names.sort(key=lambda name: len(members[name]))
    for number, name in enumerate(names):  # from the smallest value: the rest of its share is for the others
        share, value = left // (len(names) - number), members[name]
        if len(value) <= least + share:
            kept[name] = _decode(value)
            left -= max(0, len(value) - least)
            continue
        decoded = _decode(value) if bytes(value).startswith(b'"') else None
        kept[name] = text(decoded, share + len(_CUT.encode())) if isinstance(decoded, str) else _CUT
        left -= json_size(kept[name]) - len(_CUT.encode())
    in_order = {name: kept[name] for name in members if name in kept}
    return in_order if len(names) == len(members) else {**in_order, _CUT: _CUT}


def _decode(raw: bytes | msgspec.Raw) -> Any:
    """Return the value of JSON; None if it is not valid, or nested too deeply."""
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return None
    return None if too_deep(value) else value


def is_text(value: str) -> bool:
    """Whether a text is valid Unicode; a text from the operating system may contain other bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def unusable(value: Any) -> str:
    """Return why no program can take a text, or a text in an object or a list, as argument; empty if it can."""
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
    """Return a whole number of at most nine digits; None for any other text.

    ``str.isdecimal`` accepts digits of other scripts, and ``int`` fails for more than 4,300 digits.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def seconds(value: Any) -> float | None:
    """Return a number as a time or duration in seconds; None for any other value or a time after :data:`LATEST`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LATEST:
        return float(value)
    return None


def shown(value: Any) -> str:
    """Return a short description of a value for a message, however large or deeply nested it is."""
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**64:
        return f"a number of {value.bit_length()} bits"
    return repr(text(value, _SHOWN) if isinstance(value, str) else value)


def encode(value: Any) -> bytes:
    """Return a value as JSON; parts of it that JSON or its readers do not support become null."""
    try:
        return _encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _encode(plain(value))


def decoded(raw: bytes) -> dict[str, Any]:
    """Return the object of JSON from the store; an empty one if it is not valid."""
    try:
        value = msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def plain(value: Any, depth: int = DEPTH) -> Any:
    """Return a value that JSON supports: with Unicode texts, numbers that are finite, and limited nesting."""
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
    """Whether JSON supports a value, however deeply it is nested; see :func:`plain`."""
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


def too_deep(value: Any, limit: int = DEPTH) -> bool:
    """Whether objects and lists are nested more than ``limit`` times."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        parts = (part for each in level for part in (each.values() if isinstance(each, dict) else each))
        level = [part for part in parts if isinstance(part, dict | list)]
        if not level:
            return False
    return bool(level)
