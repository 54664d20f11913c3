"""Callers identified by their connection: the peer of a Unix socket, or a client certificate."""

from __future__ import annotations

import asyncio
import functools
import pwd
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.auth.caller import Caller, Scope, implied

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class SocketUsers:
    """The users allowed on the Unix socket.

    Args:
        owner: uid of the instance's owner, with the scope admin.
        users: scopes of other users by user name or uid; "*" matches every user of this machine.
    """

    def __init__(self, owner: int, users: Mapping[str, Scope]) -> None:
        self._owner = owner
        self._users = users

    @property
    def others(self) -> bool:
        """Whether users other than the owner are allowed."""
        return bool(self._users)

    def caller(self, transport: asyncio.BaseTransport) -> Caller | None:
        """Return the peer as a caller; None if the user is not allowed."""
        uid = _uid(transport)
        if uid is None:
            return None
        name = _name(uid)
        scope: Scope | None = "admin" if uid == self._owner else None
        for known in (name, str(uid), "*"):
            scope = scope or self._users.get(known)
        return Caller(name=name, scopes=implied([scope]), method="socket") if scope else None


@dataclass(frozen=True)
class PeerCallers:
    """The callers that a connection identifies without a credential."""

    socket_users: SocketUsers
    certificate_scope: Scope | None
    """Scope of a caller with a client certificate; None: client certificates are not used."""

    def socket_caller(self, transport: asyncio.BaseTransport) -> Caller | None:
        """Return the peer of a Unix socket; None if the user is not allowed."""
        return self.socket_users.caller(transport)

    def certificate_caller(self, transport: asyncio.BaseTransport | None) -> Caller | None:
        """Return the caller of a client certificate; None if there is none that is used."""
        return certificate_caller(transport, self.certificate_scope) if self.certificate_scope else None


def is_unix(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a connection is to a Unix socket; False if it is already lost."""
    if transport is None or isinstance(transport.get_extra_info("peername"), tuple):  # faster than the socket's family
        return False
    sock = transport.get_extra_info("socket")
    return sock is not None and sock.family == socket.AF_UNIX


def _uid(transport: asyncio.BaseTransport) -> int | None:
    """Return the uid of the peer process; None if the connection is already lost."""
    sock = transport.get_extra_info("socket")
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size) if sock is not None else None
    except OSError:
        return None
    return int(_CREDENTIALS.unpack(data)[1]) if data else None


@functools.lru_cache(maxsize=4096)  # the user database may be on the network
def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


def certificate_caller(
    transport: asyncio.BaseTransport | None, scope: Scope, now: Callable[[], float] = time.time
) -> Caller | None:
    """Return the caller of a client certificate, by its common name; None without a certificate, or if it has expired.

    The TLS handshake verifies the certificate and its dates. The expiry is checked again, as a connection may last for
    days.
    """
    certificate: Mapping[str, Any] | None = transport.get_extra_info("peercert") if transport else None
    if not certificate:
        return None
    subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
    name = subject.get("commonName", "")
    expires = _expires(certificate["notAfter"])
    if not name or expires <= now():
        return None
    return Caller(name=name, scopes=implied([scope]), method="certificate", expires=expires)


@functools.lru_cache(maxsize=4096)
def _expires(text: str) -> float:
    """Convert a certificate's ``notAfter`` to Unix time."""
    return float(ssl.cert_time_to_seconds(text))
