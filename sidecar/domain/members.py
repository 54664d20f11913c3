"""Members of JSON objects from users, plugins and damaged files, each read with its expected type and a bound.

A journal may contain any JSON in any member: of another type, huge, or deeply nested. A member that is not valid is
recorded once for each kind of fault, and does not affect the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sidecar.domain import untrusted

_KINDS = 32


class Faults:
    """The faults in the data of one job: an example of each kind, and at most as many kinds as a log should get."""

    __slots__ = ("_known", "_new")

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._new: dict[str, str] = {}

    def note(self, kind: str, detail: str) -> None:
        """Record a fault, unless its kind is already known.

        Args:
            kind: path of the member; never made from the job's data.
            detail: what is wrong with its value.
        """
        if kind not in self._known and len(self._known) < _KINDS:
            self._known.add(kind)
            self._new[kind] = detail

    def take(self) -> dict[str, str]:
        """Return the faults that were recorded since the last call: details by kind."""
        if not self._new:
            return {}
        faults, self._new = self._new, {}
        return faults


class Members:
    """The members of a JSON object.

    Args:
        value: the object; any other value is a fault, and has no members.
        where: path of the object, for faults: ``exception``, ``jobspec.attributes``.
        faults: gets the faults.
    """

    __slots__ = ("_faults", "_where", "values")

    def __init__(self, value: Any, where: str, faults: Faults) -> None:
        self._where = where
        self._faults = faults
        self.values: Mapping[str, Any] = value if isinstance(value, dict) else {}
        if not isinstance(value, dict):
            faults.note(where, f"expected an object; got {untrusted.shown(value)}")

    def _wrong(self, name: str, expected: str) -> None:
        self._faults.note(f"{self._where}.{name}", f"expected {expected}; got {untrusted.shown(self.values[name])}")

    def text(self, name: str, limit: int, default: str = "") -> str:
        """Return a text of at most ``limit`` bytes; a longer one is truncated, which is not a fault."""
        if name not in self.values:
            return default
        value = self.values[name]
        if not isinstance(value, str):
            self._wrong(name, "a text")
            return default
        return untrusted.text(value, limit)

    def whole(
        self, name: str, default: int, *, low: int = 0, high: int = untrusted.COUNT, wrong: int | None = None
    ) -> int:
        """Return a whole number from ``low`` to ``high``.

        Args:
            name: of the member.
            default: returned if there is no such member.
            low: minimum.
            high: maximum.
            wrong: returned for another value; default: ``default``.
        """
        if name not in self.values:
            return default
        value = self.values[name]
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self._wrong(name, f"a whole number from {low} to {high}")
        return default if wrong is None else wrong

    def seconds(self, name: str) -> float | None:
        """Return a time or duration in seconds; None if there is no valid one."""
        if name not in self.values:
            return None
        value = untrusted.seconds(self.values[name])
        if value is None:
            self._wrong(name, "seconds")
        return value

    def inner(self, name: str) -> Members:
        """Return the members of a nested object; empty if it does not exist."""
        return Members(self.values.get(name, {}), f"{self._where}.{name}", self._faults)

    def items(self, name: str) -> list[Any]:
        """Return a list; empty if there is no valid one."""
        value = self.values.get(name, [])
        if isinstance(value, list):
            return value
        self._wrong(name, "a list")
        return []

    def read(self, name: str, expected: str, read: Callable[[Any], Any], default: Any) -> Any:
        """Return the value that ``read`` makes of a member.

        Args:
            name: of the member.
            expected: what the member should be, for the fault.
            read: converts the member; raises ValueError if it is not valid.
            default: returned if there is no valid member.
        """
        if name not in self.values:
            return default
        try:
            return read(self.values[name])
        except ValueError:
            self._wrong(name, expected)
            return default
