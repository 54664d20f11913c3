"""What an option is: one description for its flag, its variable, its help and its row in the documentation."""

from __future__ import annotations

import ipaddress
import re

from cyclopts import Parameter

PREFIX = "FLUX_SIDECAR_"

_DURATION = re.compile(r"(\d{1,9}(?:\.\d*)?|\.\d+)(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(Exception):
    """The server was started in a way that cannot work; the text says what to change."""


def option(name: str, text: str, *aliases: str, unit: str = "", **details: object) -> Parameter:
    """Describe one option; ``aliases`` are other variables, read when ours is not set."""
    variables = (PREFIX + name.upper(), *aliases)
    # "--no-no-auth" would be a riddle, not an option.
    negative = () if name.startswith("no_") else None
    return Parameter(help=f"{text} [{unit}]" if unit else text, env_var=variables, negative=negative, **details)  # type: ignore[arg-type]


def parse_duration(name: str, text: str) -> float:
    """Read a Flux Standard Duration (RFC 23), such as ``1.5h``, as seconds; it must be more than 0.

    Raises:
        SettingsError: it is none.
    """
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _UNITS[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise SettingsError(f"{name} {text!r} is no duration: use seconds, or a number with ms, s, m, h or d.")
    return seconds


def parse_list(text: str) -> tuple[str, ...]:
    """Read words that are separated by commas."""
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
