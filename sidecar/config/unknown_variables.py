"""Variables of the environment that look like this server's and were set by others, or were misspelt.

Kubernetes makes variables of the name of each Service (``FLUX_SIDECAR_METRICS_PORT=tcp://10.0.0.1:80``), tcsh and conda
set ``HOST``, and hosting platforms set ``PORT``. None of them may keep the server from starting.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from sidecar.config.options import PREFIX

_LINK = re.compile(r"(?:tcp|udp|sctp)://")
_OF_LINK = re.compile(r".*_(?:SERVICE_HOST|SERVICE_PORT(?:_.*)?|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)")


class Foreign(NamedTuple):
    """Variables that do not mean this server, and what is to be said of them."""

    ignored: dict[str, str]
    """Why each of them is ignored, by its name."""
    unknown: list[str]
    """What is to be said of those that were misspelt."""


def find(environ: Mapping[str, str], known: Collection[str]) -> Foreign:
    """Look through an environment.

    Args:
        environ: names and values.
        known: every variable that an option is read from.
    """
    ignored = {}
    unknown = []
    for name, value in environ.items():
        if name in _GENERAL and name in known:
            check, what = _GENERAL[name]
            if not check(value):
                ignored[name] = (
                    f"{name}={value[:80]} is ignored: it is not {what}. Use {PREFIX}{name} or --{name.lower()}."
                )
        elif not name.startswith(PREFIX):
            continue
        elif _LINK.match(value):
            if name in known:
                ignored[name] = f"{name}={value[:80]} is ignored: Kubernetes has made it of a Service's name."
        elif name not in known and not _OF_LINK.fullmatch(name):
            unknown.append(_unknown(name, known))
    return Foreign(ignored, unknown)


def _unknown(name: str, known: Collection[str]) -> str:
    ours = {each.removeprefix(PREFIX): each for each in known if each.startswith(PREFIX)}
    close = difflib.get_close_matches(name.removeprefix(PREFIX)[:80], ours, n=1, cutoff=0.7)
    hint = f"did you mean {ours[close[0]]}?" if close else "flux-sidecar serve --help lists all."
    return f"{name[:80]} is not a variable of this server; {hint}"


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


#: Variables that others set for themselves: used where they can be meant.
_GENERAL: dict[str, tuple[Callable[[str], bool], str]] = {
    "HOST": (_is_address, "an IP address"),
    "PORT": (_is_number, "a number"),
}
GENERAL = frozenset(_GENERAL)
