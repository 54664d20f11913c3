"""Dates on which tokens expire: as typed, as written in the file, and as Unix seconds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sidecar.domain import durations

_DAY = "%Y-%m-%d"
_SECOND = "%Y%m%dT%H%M%SZ"  # without colons, which separate the fields of a line
_QUOTED = 40  # characters
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()


def read_expiry(text: str) -> float:
    """Return the expiry in a line of the file, in Unix seconds.

    Args:
        text: a date, at the end of which (UTC) the token expires, or a time such as ``20261231T180000Z``.

    Raises:
        ValueError: it is neither. The message does not quote it.
    """
    for form, more in ((_DAY, timedelta(days=1)), (_SECOND, timedelta())):
        try:
            return (datetime.strptime(text, form).replace(tzinfo=UTC) + more).timestamp()
        except (ValueError, OverflowError):
            continue
    raise ValueError("the last field must be a date, as in 2026-12-31 or 20261231T180000Z")


def expiry_field(text: str, now: float) -> str:
    """Return the field of the file for an expiry as typed.

    Args:
        text: a duration from now, as in ``30d``, or what :func:`read_expiry` reads.
        now: Unix seconds.

    Raises:
        ValueError: it is neither, or not in the future; the message says what to write.
    """
    shown, field = repr(text[:_QUOTED]), text
    try:
        expires = read_expiry(text)
    except ValueError:
        try:
            expires = now + durations.parse(text)
        except ValueError:
            raise ValueError(f"--expires: {shown} is neither a duration nor a date; write 30d or 2026-12-31") from None
        if expires > _LAST:
            raise ValueError(f"--expires: {shown} is too long; leave --expires out for never") from None
        field = datetime.fromtimestamp(expires, UTC).strftime(_SECOND)
    if expires <= now:
        raise ValueError(f"--expires: {shown} is not in the future")
    return field


def show_expiry(expires: float | None) -> str:
    """Return an expiry for a table: a time in UTC, or ``never``."""
    if expires is None:
        return "never"
    return datetime.fromtimestamp(expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
