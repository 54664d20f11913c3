"""Values of options as they are typed: whole numbers, numbers, and yes or no."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_MOST = 1e12  # of a number, which keeps out inf and nan too
_SHOWN = 40  # characters
_YES = frozenset({"yes", "y", "1", "true", "t"})
_NO = frozenset({"no", "n", "0", "false", "f"})
_SIZES = {"bytes": "1048576 for 1 MiB", "MiB": "64"}


def whole(text: str, unit: str = "") -> int:
    """Read a whole number; a fraction is not rounded.

    Args:
        text: what was typed.
        unit: what is counted, for the error.

    Raises:
        ValueError: it is another value, or has more than 18 digits.
    """
    if _WHOLE.fullmatch(text.strip()):
        return int(text)
    of = f" of {unit}, as in {_SIZES[unit]}" if unit in _SIZES else ""
    if text.strip().isdecimal():
        of = " of at most 18 digits"
    raise ValueError(f"expected a whole number{of}; got {shown(text)}")


def number(text: str) -> float:
    """Read a number.

    Raises:
        ValueError: it is another value, or not less than 10^12.
    """
    try:
        found = float(text)
    except ValueError:
        found = _MOST
    if not abs(found) < _MOST:
        raise ValueError(f"expected a number below 10^12; got {shown(text)}")
    return found


def yes_or_no(text: str) -> bool:
    """Read a value that is yes or no.

    Raises:
        ValueError: it is another value.
    """
    word = text.strip().lower()
    if word not in _YES | _NO:
        raise ValueError(not_yes_or_no(text))
    return word in _YES


def not_yes_or_no(text: str) -> str:
    """Return what to write instead of a value that is neither yes nor no."""
    return f"expected true, yes or 1, or false, no or 0; got {shown(text)}"


def shown(text: str) -> str:
    """Return the beginning of a value, quoted, for an error."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
