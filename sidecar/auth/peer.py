"""Callers who are known by their connection: the user at the other end of a Unix socket, a client certificate."""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from collections.abc import Mapping
from typing import Any

from sidecar.auth.caller import Caller, Scope, implied

_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class SocketUsers:
    """Who may call through the Unix socket.

    Args:
        owner: uid of the instance's owner, who may do everything.
        users: user names or uids of others, and their scopes; "*" is everybody on this machine.
    """

    def __init__(self, owner: int, users: Mapping[str, Scope]) -> None:
        self._owner = owner
        self._users = users

    @property
    def others(self) -> bool:
        """Whether anybody but the owner may call."""
        return bool(self._users)

    def caller(self, transport: asyncio.BaseTransport) -> Caller | None:
        """Return who is at the other end; None when they are nobody here."""
        uid = _uid(transport)
        name = _name(uid)
        scope: Scope | None = "admin" if uid == self._owner else None
        for known in (name, str(uid), "*"):
            scope = scope or self._users.get(known)
        return Caller(name=name, scopes=implied([scope]), method="socket") if scope else None


def is_unix(transport: asyncio.BaseTransport | None) -> bool:
    """Whether a connection came through a Unix socket."""
    # A name of the other end has only a TCP connection: an address and a port.
    return transport is not None and not isinstance(transport.get_extra_info("peername"), tuple)


def _uid(transport: asyncio.BaseTransport) -> int:
    sock = transport.get_extra_info("socket")
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(data)[1])


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def certificate_caller(transport: asyncio.BaseTransport | None, scope: Scope) -> Caller | None:
    """Return who has shown a client certificate, by its common name; None without one.

    The TLS handshake has checked it against the authority already.
    """
    certificate: Mapping[str, Any] | None = transport.get_extra_info("peercert") if transport else None
    if not certificate:
        return None
    subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
    name = subject.get("commonName", "")
    return Caller(name=name, scopes=implied([scope]), method="certificate") if name else None
