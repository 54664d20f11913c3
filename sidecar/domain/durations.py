"""Durations: Flux Standard Duration (RFC 23) such as ``1.5h``, or several of them in a row: ``1h30m``."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(?:[0-9]{1,12}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
_PLAIN = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h|d)\s*")
_LONGEST = 64  # characters
FORMS = "use seconds, or numbers with ms, s, m, h or d, as in 90s or 1h30m"
"""Hint for a value that is not a duration."""
AS_TEXT = "or as text a duration (90s, 1h30m)"
"""In the description of a number of seconds: the other way to write it."""


def parse(text: str) -> float:
    """Return a duration in seconds; a number without a unit is in seconds.

    Raises:
        ValueError: ``text`` is not a duration; the error says what to write.
    """
    text = text.strip().lower()
    if len(text) <= _LONGEST:
        if _PLAIN.fullmatch(text):
            return float(text)
        parts = _PART.findall(text)
        if parts and not _PART.sub("", text):
            return sum(float(number) * _UNITS[unit] for number, unit in parts)
    raise ValueError(f"{text[:_LONGEST]!r} is not a duration; {FORMS}")
