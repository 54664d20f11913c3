"""The signals that a job can be sent, by name and number."""

from __future__ import annotations

import signal

from sidecar.domain import untrusted
from sidecar.domain.errors import InvalidRequest

LAST = 64

_STANDARD = {name: int(number) for name, number in signal.Signals.__members__.items()}
_REAL_TIME = {f"SIGRTMIN+{n - signal.SIGRTMIN}": n for n in range(signal.SIGRTMIN + 1, signal.SIGRTMAX)}
_NUMBERS = _STANDARD | _REAL_TIME
_NAMES = {number: name for name, number in _REAL_TIME.items()} | {int(n): n.name for n in signal.Signals}


def parse(value: int | str) -> int:
    """Return the number of a signal.

    Args:
        value: a number, or a name with or without SIG, in any case.

    Raises:
        InvalidRequest: the value names no signal.
    """
    if isinstance(value, int):
        return value
    name = value.strip().upper()
    if (number := untrusted.digits(name)) is not None and 1 <= number <= LAST:
        return number
    known = _NUMBERS.get(name) or _NUMBERS.get(f"SIG{name}")
    if known is None:
        raise InvalidRequest(
            f"signal: unknown signal {untrusted.shown(value)}; use 1 to {LAST}, SIGRTMIN+1 to "
            f"SIGRTMIN+{len(_REAL_TIME)}, or {', '.join(_STANDARD)} (with or without SIG)."
        )
    return known


def name_of(number: int) -> str:
    """Return the name of a signal; its number as text where it has no name."""
    return _NAMES.get(number, str(number))
