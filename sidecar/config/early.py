"""Options that are read before the command line is parsed, in the pod of every follower too.

This module imports next to nothing: ``re`` and ``typing`` alone would add a tenth to a follower's memory.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

PREFIX = "FLUX_SIDECAR_"
LOCAL = "local://"
OPERATOR = "/mnt/flux/config"
"""Directory of the broker's files in every container of a MiniCluster's pod, as the Flux Operator mounts it."""

#: Name and further variables of the options that :func:`early_role` reads.
URI = ("uri", "FLUX_URI")
COMPLETION_INDEX = ("completion_index", "JOB_COMPLETION_INDEX")
FOLLOWER_WAIT = ("follower_wait",)
LINGER = ("linger",)
END_FILE = ("end_file",)
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
DEFAULT_FOLLOWER_WAIT = 30.0  # seconds; the Flux Operator restarts a follower's broker 15 s after a failure

_LONGEST = 3650 * 86400.0  # seconds


class FollowerRole:
    """The role of a process that waits for this pod's broker and serves nothing.

    Args:
        index: completion index of the pod; 0 for ``attend``, which waits until the instance runs.
        socket: path of the broker's socket.
        wait: how long to wait for another broker after a crash, in seconds.
        linger: how long to stay after the end of the instance, in seconds.
        end_file: path of the end file; empty: do not check for it.
    """

    def __init__(self, index: int, socket: str, wait: float, linger: float, end_file: str = "") -> None:
        self.linger = linger
        self.index = index
        self.socket = socket
        self.wait = wait
        self.end_file = end_file


def early_role(arguments: Sequence[str]) -> FollowerRole | None:
    """Return the follower's role of this process, or None for any other command.

    Also returns None for a value that is not valid: the command line's parser reports it.
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
    """Return the value of an option from its flag or variable; empty if neither is set."""
    return _early(arguments, name)


def early_value(name: str, default: str = "") -> str:
    """Return the value of an option from its variable, for a process without that command line."""
    return _early((), name) or default


def _early(arguments: Sequence[str], name: str, *aliases: str, text: bool = False) -> str:
    """Return the value of an option: of its flag, else of the first of its variables that is set.

    An empty variable counts as set if the option takes ``text``.
    """
    flag = f"--{name.replace('_', '-')}"
    for position, argument in enumerate(arguments):
        if argument == flag:
            return "".join(arguments[position + 1 : position + 2])
        if argument.startswith(f"{flag}="):
            return argument.removeprefix(f"{flag}=")
    values = (os.environ.get(variable) for variable in (PREFIX + name.upper(), *aliases))
    return next((value for value in values if value or (text and value is not None)), None) or ""


def operator_uri() -> str:
    """Return the URI of the broker in this MiniCluster's pod; empty outside of such a pod."""
    if "FLUX_URI" in os.environ or not any(map(os.environ.get, COMPLETION_INDEX[1:])) or not os.path.isdir(OPERATOR):
        return ""
    return f"{LOCAL}{OPERATOR}/run/flux/local"


def read_seconds(text: str) -> float:
    """Return a number of seconds, or a duration, as seconds.

    Raises:
        ValueError: ``text`` is neither, or longer than 3650 days, beyond which system timers fail.
    """
    try:
        seconds = float(text)
    except ValueError:
        from sidecar.domain import durations

        seconds = durations.parse(text)
    if not abs(seconds) <= _LONGEST:  # also nan and inf
        raise ValueError(f"{text[:40]!r} is not a duration; use at most 3650d")
    return seconds
