"""One instance, one server: two would submit the job of one idempotency key twice. Runs in the Flux thread.

A broker gives a service's name to one connection alone, and takes it back when that connection ends, however its
process ended: so the name is the lease. A server may be connected to any broker of an instance, and each broker has
names of its own: which server is where stands in the KVS, and a broker that does not know the name has no server.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from typing import Any

import flux.constants
import msgspec

from sidecar.instance.flux import kvs as keys

_SERVICE = "flux-sidecar"
_TOPIC = f"{_SERVICE}.ping"
_PATIENCE, _POLL = 3.0, 0.1  # seconds: a predecessor that is being ended lets go within moments
_ANSWER = 1.0
_GONE = (errno.ENOSYS, errno.EHOSTUNREACH, errno.EHOSTDOWN)


class Holder(msgspec.Struct):
    """A server, as it stands in the KVS."""

    pid: int
    host: str
    address: str
    """Where it was told to listen; empty where it took any port."""
    since: float

    def __str__(self) -> str:
        where = f" at {self.address}" if self.address else ""
        return f"pid {self.pid} on {self.host}{where}"


class Taken(PermissionError):
    """Another server has the instance."""

    def __init__(self, holder: Holder | None) -> None:
        named = f" ({holder})" if holder else ""
        super().__init__(
            errno.EPERM,
            f"another server{named} serves it. One instance is for one server: use that one, or stop it first",
        )


def take(handle: Any, address: str) -> None:
    """Take the instance for this server, waiting a moment for a predecessor that ends.

    Args:
        handle: the connection that holds the lease from now on.
        address: where this server listens, for the one that is refused.

    Raises:
        Taken: another server has it.
        OSError: the broker does not answer.
    """
    rank = int(handle.attr_get("rank"))
    deadline = time.monotonic() + _PATIENCE
    while (other := _other(handle, rank)) or not _add(handle):
        if time.monotonic() > deadline:
            holder = other or _servers(handle).get(rank)
            if holder and (holder.pid, holder.host) == (os.getpid(), socket.gethostname()):
                raise OSError(errno.EAGAIN, "this server's last connection has not ended yet")
            raise Taken(holder)
        time.sleep(_POLL)
    me = Holder(os.getpid(), socket.gethostname(), address, time.time())
    keys.write(handle, f"{keys.SERVERS}.{rank}", msgspec.to_builtins(me))
    # Another one may have begun at another broker in the same moment: one of the two sees the other.
    if (other := _other(handle, rank)) and other.since < me.since:
        drop(handle)
        raise Taken(other)


def drop(handle: Any) -> None:
    """Give the name back, where the connection still works: it may be kept open for longer than it is used."""
    with contextlib.suppress(OSError):
        handle.rpc("service.remove", {"service": _SERVICE}).wait_for(_ANSWER).get()


def answer(handle: Any) -> Any:
    """Answer servers that ask from other brokers, for as long as the reactor runs; return the watcher to stop then."""

    def ping(handle: Any, _: Any, message: Any, __: Any) -> None:
        with contextlib.suppress(OSError):  # the one that has asked does not wait any more
            handle.respond(message, {})

    watcher = handle.msg_watcher_create(ping, flux.constants.FLUX_MSGTYPE_REQUEST, _TOPIC)
    watcher.start()
    return watcher


def _add(handle: Any) -> bool:
    """Take the name at this broker; false when another connection has it."""
    try:
        handle.rpc("service.add", {"service": _SERVICE}).wait_for(_PATIENCE).get()
    except FileExistsError:
        return False
    return True


def _other(handle: Any, rank: int) -> Holder | None:
    """Return a server that is connected to another broker of this instance."""
    for other, holder in _servers(handle).items():
        if other != rank and _alive(handle, other):
            return holder
    return None


def _alive(handle: Any, rank: int) -> bool:
    """Whether a server is connected to a broker; one that says nothing is."""
    try:
        handle.rpc(_TOPIC, None, rank).wait_for(_ANSWER).get()
    except OSError as exc:
        return exc.errno not in _GONE
    return True


def _servers(handle: Any) -> dict[int, Holder]:
    """Return what servers have written of themselves, by the rank of their broker; most have ended.

    Any job can write there: what is no rank of this instance, or tells no holder, is passed over.
    """
    found: dict[int, Holder] = {}
    ranks = {str(rank): rank for rank in range(int(handle.attr_get("size")))}
    for name in keys.servers(handle):
        if (rank := ranks.get(name)) is not None:
            with contextlib.suppress(msgspec.ValidationError):
                found[rank] = msgspec.convert(keys.read(handle, f"{keys.SERVERS}.{name}"), Holder)
    return found
