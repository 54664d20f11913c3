"""Definition of an option: one description for its flag, its variables, its help and its row in docs/settings.md.

The options of a subject are the fields of a dataclass, such as :class:`sidecar.config.listen.ListenOptions`, each of
type ``Annotated[type, option(...)]``. :class:`sidecar.config.settings.Settings` has one such dataclass for each group
of ``--help``. The order of the fields is that of ``--help``: the most common option first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cyclopts import Group, Parameter, convert

from sidecar.config import values
from sidecar.config.early import PREFIX, read_seconds

T = TypeVar("T")

_GROUPS = ("Listen", "Jobs", "Access", "OIDC", "TLS", "Kubernetes", "Limits", "Telemetry", "Embedded")
TITLES: dict[type, str] = {}
"""Title of each group, by its dataclass."""
_UNITS = {"seconds": "seconds, or as in 1h30m"}


def group(title: str) -> Callable[[type[T]], type[T]]:
    """Return the decorator of the dataclass that has the options of a group."""

    def decorate(options: type[T]) -> type[T]:
        TITLES[options] = title
        return Parameter(name="*", group=Group(title, sort_key=_GROUPS.index(title)))(options)

    return decorate


def option(
    name: str, text: str, *aliases: str, unit: str = "", converter: Callable[..., object] | None = None
) -> Parameter:
    """Describe an option.

    Args:
        name: name of its field.
        text: its help.
        aliases: further variables, which are read if ``FLUX_SIDECAR_NAME`` is not set.
        unit: unit of its value.
        converter: reads its value; default: a converter for the field's type.
    """
    return Parameter(
        help=f"{text} [{_UNITS.get(unit, unit)}]" if unit else text,
        env_var=(PREFIX + name.upper(), *aliases),
        show_env_var=False,  # docs/settings.md lists them; a terminal has no room for them
        show_default=_shown_default,
        negative=() if name.startswith("no_") else None,  # there is no "--no-no-auth"
        converter=converter or _reader(unit),
    )


def _shown_default(value: object) -> object:
    """Return what ``--help`` shows as default: nothing for an option that is off or empty."""
    if value is True:
        return "yes"
    return None if value == "" or value is False else value


def flag(name: str) -> str:
    """Return the flag of a field."""
    return f"--{name.replace('_', '-')}"


def require_positive(options: object, *names: str) -> None:
    """Check that options are more than 0.

    Raises:
        SettingsError: one of them is 0 or negative.
    """
    for name in names:
        if getattr(options, name) <= 0:
            raise values.SettingsError(f"{flag(name)} must be more than 0.")


def require_not_negative(options: object, *names: str) -> None:
    """Check that options are not negative.

    Raises:
        SettingsError: one of them is.
    """
    for name in names:
        if getattr(options, name) < 0:
            raise values.SettingsError(f"{flag(name)} must not be negative.")


def _reader(unit: str) -> Callable[[type, Sequence[Any]], object]:
    """Return a converter as cyclopts calls it; it accepts negative numbers, which ``check`` of the group rejects."""

    def read(kind: type, tokens: Sequence[Any]) -> object:
        text: str = tokens[0].value
        if kind is int:
            return values.whole(text, unit)
        if kind is float:
            return read_seconds(text) if unit == "seconds" else values.number(text)
        if kind is bool:
            return values.yes_or_no(text)
        return convert(kind, tokens)

    return read
