"""What an option is: one description for its flag, its variable, its help and its row in the documentation.

A few options are read before it is known whether there is anything to serve, in the pod of every follower. So this
module imports next to nothing: what others take for granted (re, typing) would be a tenth of all that is used there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cyclopts import Parameter

PREFIX = "FLUX_SIDECAR_"
LOCAL = "local://"
OPERATOR = "/mnt/flux/config"
"""Where the Flux Operator has a broker's files, in every container of a MiniCluster's pod."""

#: Name and further variables of the options that :func:`early_role` reads.
URI = ("uri", "FLUX_URI")
COMPLETION_INDEX = ("completion_index", "JOB_COMPLETION_INDEX")
FOLLOWER_WAIT = ("follower_wait",)
_LONGEST = 3650 * 86400.0  # seconds
LINGER = ("linger",)
END_FILE = ("end_file",)
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT_FOLLOWER_WAIT = 30.0  # seconds; the Flux Operator starts a follower's broker again 15 s after a failure


_SHOWN = {"seconds": "seconds, or as in 1h30m"}


class SettingsError(Exception):
    """The server was started in a way that cannot work; the text says what to change."""


def option(name: str, text: str, *aliases: str, unit: str = "", **details: object) -> Parameter:
    """Describe one option; ``aliases`` are other variables, read when ours is not set."""
    variables = (PREFIX + name.upper(), *aliases)
    from cyclopts import Parameter

    from sidecar.config.groups import group_of

    details.setdefault("converter", _reader(unit))
    return Parameter(
        help=f"{text} [{_SHOWN.get(unit, unit)}]" if unit else text,
        env_var=variables,
        show_env_var=False,  # docs/settings.md lists them; here they would push the help aside
        negative=() if name.startswith("no_") else None,  # there is no "--no-no-auth"
        group=group_of(name),
        **details,  # type: ignore[arg-type]
    )


class FollowerRole:
    """A process that waits for this pod's broker and serves nothing: in the pod of a follower, or before a server.

    Args:
        index: the pod's completion index; 0: it waits until the instance runs, and a server takes over.
        socket: path of its own broker's socket.
        wait: how long another broker is waited for when one has crashed, in seconds.
        linger: how long to stay when the instance has ended, in seconds.
        end_file: where to write that this pod has nothing to wait for; empty: nowhere, and that is not looked for.
    """

    def __init__(self, index: int, socket: str, wait: float, linger: float, end_file: str = "") -> None:
        self.linger = linger
        self.index = index
        self.socket = socket
        self.wait = wait
        self.end_file = end_file


def api_server(given: str) -> str:
    """Return where the Kubernetes API server is: as given, else that of the cluster that this process runs in."""
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST", ""), os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if given or not host:
        return given or "https://kubernetes.default.svc"
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def in_kubernetes() -> bool:
    """Whether this process runs in a pod."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def service_names() -> frozenset[str]:
    """Return the Services of this pod's namespace, spelled as Kubernetes spells them in names of variables."""
    suffix = "_SERVICE_HOST"
    return frozenset(name.removesuffix(suffix) for name in os.environ if name.endswith(suffix))


def operator_uri() -> str:
    """Return where the broker of a MiniCluster's pod is, in a container beside it; empty anywhere else."""
    if "FLUX_URI" in os.environ or not any(map(os.environ.get, COMPLETION_INDEX[1:])) or not os.path.isdir(OPERATOR):
        return ""
    return f"{LOCAL}{OPERATOR}/run/flux/local"


def early_role(arguments: Sequence[str]) -> FollowerRole | None:
    """Find out, without the command line's parser, whether this process is to be a follower.

    Whatever is not plain is left to the parser, which says what is wrong: then this returns None.
    """
    if "--embedded" in arguments or "--help" in arguments or "-h" in arguments:
        return None
    command, index = arguments[:1], _early(arguments, *COMPLETION_INDEX)
    uri = _early(arguments, *URI, text=True) or operator_uri()
    wait = _early(arguments, *FOLLOWER_WAIT) or str(DEFAULT_FOLLOWER_WAIT)
    if not index.isdecimal() or len(index) > 9 or not uri.startswith(LOCAL):
        return None
    if command != ["attend"] and (command != ["serve"] or int(index) == 0):
        return None
    try:
        seconds, linger = read_seconds(wait), read_seconds(_early(arguments, *LINGER) or "0")
    except ValueError:
        return None
    if min(seconds, linger) < 0:
        return None
    return FollowerRole(int(index), uri.removeprefix(LOCAL), seconds, linger, _early(arguments, *END_FILE))


def early_option(arguments: Sequence[str], name: str) -> str:
    """Return the value of an option where the command line cannot be parsed, or has not been; empty: not given."""
    return _early(arguments, name)


def early_value(name: str, default: str = "") -> str:
    """Return what the variable of an option says, where there is no command line to parse."""
    return _early((), name) or default


def _early(arguments: Sequence[str], name: str, *aliases: str, text: bool = False) -> str:
    """Return the value of one option: of its flag, else of the first of its variables that is set.

    An empty variable counts as set where the option takes ``text``.
    """
    flag = f"--{name.replace('_', '-')}"
    for position, argument in enumerate(arguments):
        if argument == flag:
            return "".join(arguments[position + 1 : position + 2])
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    found = (os.environ.get(variable) for variable in (PREFIX + name.upper(), *aliases))
    return next((value for value in found if value or (text and value is not None)), None) or ""


def parse_duration(name: str, text: str) -> float:
    """Read a duration, such as ``1h30m``, as seconds; it must be more than 0.

    Raises:
        SettingsError: it is 0, or another value.
    """
    from sidecar.domain import durations

    try:
        seconds = durations.parse(text)
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}.") from None
    if not seconds:
        raise SettingsError(f"{name}: {text!r} is not allowed; leave the option out for never.")
    return seconds


def _reader(unit: str) -> Callable[[type, Sequence[object]], object]:
    """Return what reads the value of an option, as cyclopts calls it; negative numbers are refused later, by name."""

    def read(kind: type, tokens: Sequence[object]) -> object:
        from sidecar.config import values

        text: str = tokens[0].value  # type: ignore[attr-defined] # cyclopts' Token
        if kind is int:
            return values.whole(text, unit)
        if kind is float:
            return read_seconds(text) if unit == "seconds" else values.number(text)
        if kind is bool:
            return values.yes_or_no(text)
        from cyclopts import convert

        return convert(kind, tokens)  # type: ignore[arg-type]

    return read


def read_seconds(text: str) -> float:
    """Read a number of seconds, or a duration.

    Raises:
        ValueError: it is neither, or longer than timers of the system can be.
    """
    try:
        seconds = float(text)
    except ValueError:
        from sidecar.domain import durations

        seconds = durations.parse(text)
    if not abs(seconds) <= _LONGEST:  # nor is nan or inf
        raise ValueError(f"{text[:40]!r} is not a duration; use at most 3650d")
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
