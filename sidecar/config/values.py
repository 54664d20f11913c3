"""Values of options as users type them: numbers, yes or no, durations and lists."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from sidecar.domain import durations

T = TypeVar("T")

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")
_LIMIT = 1e12  # of a number; also rejects inf and nan
_QUOTED = 40  # characters
_YES = frozenset({"yes", "y", "1", "true", "t"})
_NO = frozenset({"no", "n", "0", "false", "f"})
_EXAMPLES = {"bytes": "1048576 for 1 MiB", "MiB": "64"}


class SettingsError(Exception):
    """The server cannot start with these settings; the text says what to change."""


def whole(text: str, unit: str = "") -> int:
    """Return a whole number; a fraction is an error.

    Args:
        text: as typed.
        unit: unit of the number, for the error.

    Raises:
        ValueError: ``text`` is not a whole number, or has more than 18 digits.
    """
    if _WHOLE.fullmatch(text.strip()):
        return int(text)
    of = f" of {unit}, as in {_EXAMPLES[unit]}" if unit in _EXAMPLES else ""
    if text.strip().isdecimal():
        of = " of at most 18 digits"
    raise ValueError(f"expected a whole number{of}; got {quoted(text)}")


def number(text: str) -> float:
    """Return a number.

    Raises:
        ValueError: ``text`` is not a number below 10^12.
    """
    try:
        value = float(text)
    except ValueError:
        value = _LIMIT
    if not abs(value) < _LIMIT:
        raise ValueError(f"expected a number below 10^12; got {quoted(text)}")
    return value


def yes_or_no(text: str) -> bool:
    """Return a Boolean value.

    Raises:
        ValueError: ``text`` is neither yes nor no.
    """
    word = text.strip().lower()
    if word not in _YES | _NO:
        raise ValueError(not_yes_or_no(text))
    return word in _YES


def not_yes_or_no(text: str) -> str:
    """Return the error for a value that is neither yes nor no."""
    return f"expected true, yes or 1, or false, no or 0; got {quoted(text)}"


def quoted(text: str) -> str:
    """Return the beginning of a value in quotes, for an error."""
    return repr(text if len(text) <= _QUOTED else f"{text[:_QUOTED]}…")


def parse_duration(name: str, text: str) -> float:
    """Return a duration, such as ``1h30m``, as seconds.

    Raises:
        SettingsError: ``text`` is not a duration, or 0.
    """
    try:
        seconds = durations.parse(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}.") from None
    if not seconds:
        raise SettingsError(f"{name}: {text!r} is not allowed; leave the option out for never.")
    return seconds


def parse_list(text: str) -> tuple[str, ...]:
    """Return the words of a list that is separated by commas."""
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def read_list(name: str, text: str, read: Callable[[str], T]) -> list[T]:
    """Return the values of a list that is separated by commas.

    Args:
        name: flag of the option.
        text: as typed.
        read: converts a word to a value; raises ValueError for one that is not valid.

    Raises:
        SettingsError: a word is not valid.
    """
    try:
        return [read(word) for word in parse_list(text)]
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}.") from None
