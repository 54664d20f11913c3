"""Callers identified by their connection, also if it is lost meanwhile."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from sidecar.auth import peer
from sidecar.auth.peer import SocketUsers, certificate_caller, is_unix

ENDS = "Jan  1 00:00:00 2030 GMT"
END = 1893456000.0
CERTIFICATE = {"subject": ((("commonName", "workflow-7"),),), "notAfter": ENDS}


class Transport(asyncio.BaseTransport):
    def __init__(self, **known: Any) -> None:
        self._known = known

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._known.get(name, default)


#: What TLS reports for one iteration of the event loop after its connection was lost.
LOST = Transport()


def test_unix_socket_is_recognized() -> None:
    mine, other = socket.socketpair(socket.AF_UNIX)
    with mine, other:
        transport = Transport(socket=mine, peername="")
        assert is_unix(transport)
        caller = SocketUsers(os.getuid(), {}).caller(transport)
        assert caller is not None
        assert "admin" in caller.scopes
        assert SocketUsers(os.getuid() + 1, {}).caller(transport) is None


def test_lost_connection_is_not_a_unix_socket() -> None:
    """Requests through the socket need no Host header; a client must not get there by disconnecting."""
    assert not is_unix(LOST)
    assert not is_unix(None)
    with socket.socket() as tcp:
        assert not is_unix(Transport(socket=tcp))
    assert SocketUsers(os.getuid(), {"*": "admin"}).caller(LOST) is None
    closed, other = socket.socketpair(socket.AF_UNIX)
    closed.close()
    other.close()
    assert SocketUsers(os.getuid(), {"*": "admin"}).caller(Transport(socket=closed)) is None


def test_user_names_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def getpwuid(uid: int) -> Any:
        asked.append(uid)
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    peer._name.cache_clear()
    mine, other = socket.socketpair(socket.AF_UNIX)
    with mine, other:
        for _ in range(3):
            caller = SocketUsers(os.getuid(), {}).caller(Transport(socket=mine))
            assert caller is not None
            assert caller.name == str(os.getuid())
    peer._name.cache_clear()
    assert asked == [os.getuid()]


def test_name_of_a_certificate() -> None:
    caller = certificate_caller(Transport(peercert=CERTIFICATE), "submit", now=lambda: END - 1)
    assert caller is not None
    assert (caller.name, caller.expires, caller.method) == ("workflow-7", END, "certificate")
    assert certificate_caller(Transport(peercert=CERTIFICATE), "submit", now=lambda: END) is None
    assert certificate_caller(Transport(peercert={**CERTIFICATE, "subject": ()}), "submit", now=lambda: 0) is None
    assert certificate_caller(LOST, "submit") is None
    assert certificate_caller(None, "submit") is None
