"""What an option is: one description for its flag, its variable, its help and its row in the documentation.

A few options are read before it is known whether there is anything to serve, in the pod of every follower. So this
module imports next to nothing: what others take for granted (re, typing) would be a tenth of all that is used there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cyclopts import Parameter

PREFIX = "FLUX_SIDECAR_"
LOCAL = "local://"

#: Name and further variables of the options that :func:`early_role` reads.
URI = ("uri", "FLUX_URI")
COMPLETION_INDEX = ("completion_index", "JOB_COMPLETION_INDEX")
FOLLOWER_WAIT = ("follower_wait",)
LINGER = ("linger",)
DEFAULT_FOLLOWER_WAIT = 30.0  # seconds; the Flux Operator starts a follower's broker again 15 s after a failure

_DURATION = r"(\d{1,9}(?:\.\d*)?|\.\d+)(ms|s|m|h|d)?"
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class SettingsError(Exception):
    """The server was started in a way that cannot work; the text says what to change."""


def option(name: str, text: str, *aliases: str, unit: str = "", **details: object) -> Parameter:
    """Describe one option; ``aliases`` are other variables, read when ours is not set."""
    variables = (PREFIX + name.upper(), *aliases)
    from cyclopts import Parameter

    # "--no-no-auth" would be a riddle, not an option.
    negative = () if name.startswith("no_") else None
    return Parameter(help=f"{text} [{unit}]" if unit else text, env_var=variables, negative=negative, **details)  # type: ignore[arg-type]


class Follower:
    """A server in a pod whose broker is not the lead.

    Args:
        index: the pod's completion index.
        socket: path of its own broker's socket.
        wait: how long another broker is waited for when one has crashed, in seconds.
        linger: how long to stay when the instance has ended, in seconds.
    """

    def __init__(self, index: int, socket: str, wait: float, linger: float) -> None:
        self.linger = linger
        self.index = index
        self.socket = socket
        self.wait = wait


def api_server(given: str) -> str:
    """Return where the Kubernetes API server is: as given, else that of the cluster that this process runs in."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if given or not host:
        return given or "https://kubernetes.default.svc"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def in_kubernetes() -> bool:
    """Whether this process runs in a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def early_role(arguments: Sequence[str]) -> Follower | None:
    """Find out, without the command line's parser, whether this process is to be a follower.

    Whatever is not plain is left to the parser, which says what is wrong: then this returns None.
    """
    if arguments[:1] != ["serve"] or "--embedded" in arguments or "--help" in arguments or "-h" in arguments:
        return None
    index, uri = _early(arguments, *COMPLETION_INDEX), _early(arguments, *URI)
    wait = _early(arguments, *FOLLOWER_WAIT) or str(DEFAULT_FOLLOWER_WAIT)
    if not index.isdecimal() or int(index) == 0 or not uri.startswith(LOCAL):
        return None
    try:
        seconds, linger = float(wait), float(_early(arguments, *LINGER) or 0)
    except ValueError:
        return None
    return Follower(int(index), uri.removeprefix(LOCAL), seconds, linger) if min(seconds, linger) >= 0 else None


def _early(arguments: Sequence[str], name: str, *aliases: str) -> str:
    """Return the value of one option: of its flag, else of the first of its variables that is set."""
    flag = f"--{name.replace('_', '-')}"
    for position, argument in enumerate(arguments):
        if argument == flag:
            return "".join(arguments[position + 1 : position + 2])
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    return next((os.environ[variable] for variable in (PREFIX + name.upper(), *aliases) if variable in os.environ), "")


def parse_duration(name: str, text: str) -> float:
    """Read a Flux Standard Duration (RFC 23), such as ``1.5h``, as seconds; it must be more than 0.

    Raises:
        SettingsError: it is none.
    """
    import re

    match = re.fullmatch(_DURATION, text.strip())
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
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
