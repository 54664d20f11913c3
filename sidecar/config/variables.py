"""Variables of the environment that look like the server's but belong to other programs, or are misspelled.

Kubernetes sets variables after the name of each Service (``FLUX_SIDECAR_METRICS_PORT=tcp://10.0.0.1:80``), tcsh and
conda set ``HOST``, and hosting platforms set ``PORT``. None of them may prevent the server from starting.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from sidecar.config.early import PREFIX

_SERVICE_LINK = re.compile(r"(?:tcp|udp|sctp)://")
_SERVICE_NAME = re.compile(
    r".*_(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)


class Foreign(NamedTuple):
    """Variables that are not settings of this server."""

    ignored: dict[str, str]
    """By name, the warning about each variable that is ignored."""
    unknown: list[str]
    """Warnings about misspelled variables."""


def find_foreign(environ: Mapping[str, str], known: Collection[str]) -> Foreign:
    """Find variables of other programs, and misspelled ones.

    Args:
        environ: values by name.
        known: the variables of all options.
    """
    ignored = {}
    unknown = []
    for name, value in environ.items():
        if name in _GENERAL and name in known:
            is_valid, expected = _GENERAL[name]
            if not is_valid(value):
                ignored[name] = (
                    f"{name}={value[:80]} is ignored: it is not {expected}. Use {PREFIX}{name} or --{name.lower()}."
                )
        elif not name.startswith(PREFIX):
            continue
        elif _SERVICE_LINK.match(value):
            if name in known:
                ignored[name] = f"{name}={value[:80]} is ignored: Kubernetes has made it from a Service's name."
        elif name not in known and not _SERVICE_NAME.fullmatch(name):
            unknown.append(_unknown(name, known))
    return Foreign(ignored, unknown)


def _unknown(name: str, known: Collection[str]) -> str:
    ours = {each.removeprefix(PREFIX): each for each in known if each.startswith(PREFIX)}
    close = difflib.get_close_matches(name.removeprefix(PREFIX)[:80], ours, n=1, cutoff=0.7)
    hint = f"did you mean {ours[close[0]]}?" if close else "flux-sidecar serve --help lists all."
    return f"{name[:80]} is not a variable of this server; {hint}"


def general_variable(name: str, value: object) -> str:
    """Return ``name`` if that variable, which other programs set too, has given an option its value; else empty.

    Args:
        name: ``HOST`` or ``PORT``.
        value: of the option.
    """
    return name if PREFIX + name not in os.environ and os.environ.get(name) == str(value) else ""


def _is_address(value: str) -> bool:
    if value == "localhost":
        return True
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_number(value: str) -> bool:
    return value.isascii() and value.isdecimal()


#: Variables that other programs set too, and which of their values can be meant for this server.
_GENERAL: dict[str, tuple[Callable[[str], bool], str]] = {
    "HOST": (_is_address, "an IP address"),
    "PORT": (_is_number, "a number"),
}
