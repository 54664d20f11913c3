"""A lease of the instance, for one server: two would submit the job of one idempotency key twice.

Runs in the Flux thread. A broker gives a service name to one connection only and takes it back when that connection
ends, however its process ended: so the name is the lease. A server may be connected to any broker of an instance, and
each broker has its own names: the KVS records which server is connected where, and a broker that does not know the
name has no server.
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

from sidecar.instance.flux import kvs

_SERVICE = "flux-sidecar"
_TOPIC = f"{_SERVICE}.ping"
_ACQUIRE_TIMEOUT, _RETRY = 3.0, 0.1  # seconds: a predecessor that is ending releases the lease within moments
_RESPONSE_TIMEOUT = 1.0  # seconds
_NO_SERVER = (errno.ENOSYS, errno.EHOSTUNREACH, errno.EHOSTDOWN)


class Holder(msgspec.Struct):
    """A server, as recorded in the KVS."""

    pid: int
    host: str
    address: str
    """The address that it was configured to listen at; empty if any port."""
    since: float

    def __str__(self) -> str:
        where = f" at {self.address}" if self.address else ""
        return f"pid {self.pid} on {self.host}{where}"


class Taken(PermissionError):
    """Another server holds the lease."""

    def __init__(self, holder: Holder | None) -> None:
        named = f" ({holder})" if holder else ""
        super().__init__(
            errno.EPERM,
            f"another server{named} serves it. An instance has one server: use that one, or stop it first",
        )


def acquire(handle: Any, address: str) -> None:
    """Acquire the lease; wait a moment for a predecessor that is ending.

    Args:
        handle: the connection that holds the lease from now on.
        address: where this server listens, to be reported to a second server that is refused.

    Raises:
        Taken: another server holds it.
        OSError: the broker does not respond.
    """
    rank = int(handle.attr_get("rank"))
    deadline = time.monotonic() + _ACQUIRE_TIMEOUT
    while (other := _other_server(handle, rank)) or not _add_service(handle):
        if time.monotonic() > deadline:
            holder = other or _servers(handle).get(rank)
            if holder and (holder.pid, holder.host) == (os.getpid(), socket.gethostname()):
                raise OSError(errno.EAGAIN, "this server's previous connection has not ended yet")
            raise Taken(holder)
        time.sleep(_RETRY)
    this = Holder(os.getpid(), socket.gethostname(), address, time.time())
    kvs.write(handle, f"{kvs.SERVERS}.{rank}", msgspec.to_builtins(this))
    # Another server may have started at another broker at the same time: one of the two sees the other.
    if (other := _other_server(handle, rank)) and other.since < this.since:
        release(handle)
        raise Taken(other)


def release(handle: Any) -> None:
    """Release the lease if the connection still works: it may stay open after its last use."""
    with contextlib.suppress(OSError):
        handle.rpc("service.remove", {"service": _SERVICE}).wait_for(_RESPONSE_TIMEOUT).get()


def respond(handle: Any) -> Any:
    """Respond to servers at other brokers while the reactor runs; return the watcher, to be stopped afterwards."""

    def ping(handle: Any, _: Any, message: Any, __: Any) -> None:
        with contextlib.suppress(OSError):  # the other server no longer waits
            handle.respond(message, {})

    watcher = handle.msg_watcher_create(ping, flux.constants.FLUX_MSGTYPE_REQUEST, _TOPIC)
    watcher.start()
    return watcher


def _add_service(handle: Any) -> bool:
    """Register the service name at this broker; return False if another connection has it."""
    try:
        handle.rpc("service.add", {"service": _SERVICE}).wait_for(_ACQUIRE_TIMEOUT).get()
    except FileExistsError:
        return False
    return True


def _other_server(handle: Any, rank: int) -> Holder | None:
    """Return a server that is connected to another broker of this instance."""
    for other, holder in _servers(handle).items():
        if other != rank and _has_server(handle, other):
            return holder
    return None


def _has_server(handle: Any, rank: int) -> bool:
    """Whether a server is connected to a broker; true if there is no response in time."""
    try:
        handle.rpc(_TOPIC, None, rank).wait_for(_RESPONSE_TIMEOUT).get()
    except OSError as exc:
        return exc.errno not in _NO_SERVER
    return True


def _servers(handle: Any) -> dict[int, Holder]:
    """Return the servers that the KVS records, by the rank of their broker; most of them have ended.

    Any job can write there: names that are not ranks of this instance and values that are not holders are skipped.
    """
    servers: dict[int, Holder] = {}
    ranks = {str(rank): rank for rank in range(int(handle.attr_get("size")))}
    for name in kvs.servers(handle):
        if (rank := ranks.get(name)) is not None:
            with contextlib.suppress(msgspec.ValidationError):
                servers[rank] = msgspec.convert(kvs.read(handle, f"{kvs.SERVERS}.{name}"), Holder)
    return servers
