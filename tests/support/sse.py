"""Clients of server-sent events, for tests: one reads, one reconnects, and plain sockets only send the request."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlencode

from tests.support.harness import Server


class Message(NamedTuple):
    """One event as a browser dispatches it."""

    id: str
    event: str
    data: Any


def ask(url: str, path: str, *, buffer: int | None = None, **headers: str) -> socket.socket:
    """Send a request for a stream, and read nothing of the response.

    Args:
        url: the server's.
        path: with its query.
        buffer: size of the receive buffer in bytes.
        headers: with _ for -.
    """
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    if buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(30)
    try:
        connection.connect((host, int(port)))
        more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n".encode())
    except OSError:
        connection.close()
        raise
    return connection


class Stream:
    """A stream that is read until the server ends it, the connection breaks, or it is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._answer = http.client.HTTPResponse(connection)
        try:
            self._answer.begin()
        except (OSError, http.client.HTTPException):
            self.close()
            raise
        self.status = self._answer.status
        self.last_id = ""
        self.heartbeats = 0

    def body(self) -> str:
        """Return the whole response if it is not a stream."""
        return self._answer.read().decode()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Message]:
        event, data = "message", ""
        for line in self._lines():
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line.startswith(":"):
                self.heartbeats += 1
            elif name == "id":
                self.last_id = value
            elif name == "event":
                event = value
            elif name == "data":
                data = value
            elif not line:
                if data:
                    yield Message(self.last_id, event, json.loads(data))
                event, data = "message", ""

    def _lines(self) -> Iterator[str]:
        # A line without its end was cut off, and does not count.
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            rest = b""
            while data := self._answer.read1(65536):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    yield line.decode()

    def break_off(self) -> None:
        """Break the connection; a reader in another thread gets its end."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.break_off()
        self._answer.close()
        self._socket.close()


def connect(url: str, path: str, last_id: str = "") -> Stream:
    """Start to read a stream."""
    headers: dict[str, Any] = {"Last_Event_ID": last_id} if last_id else {}
    return Stream(ask(url, path, **headers))


def messages(server: Server, path: str, last: str = "", **query: Any) -> Iterator[Message]:
    """Yield the messages of a stream, to its end; close the iterator to disconnect earlier."""
    with connect(server.url, f"{path}?{urlencode(query)}", last) as stream:
        assert stream.status == 200, stream.body()
        yield from stream


def until(server: Server, path: str, count: int, **query: Any) -> list[Message]:
    """Return the first messages, and disconnect."""
    return list(itertools.islice(messages(server, path, **query), count))


class Reader(threading.Thread):
    """Reads a stream and reconnects with the last ID whenever it breaks, as a browser does.

    Args:
        url: returns the server's current URL; raises, or returns that of a dead one, while there is none.
        path: of the stream, with its query.
        until: the reason of an end event after which it does not reconnect.
    """

    def __init__(self, url: Callable[[], str], path: str, until: str = "ended") -> None:
        super().__init__(daemon=True)
        self._url = url
        self._path = path
        self._until = until
        self._leave = threading.Event()
        self._stream: Stream | None = None
        self.messages: list[Message] = []
        self.faults: list[str] = []
        self.connections = 0
        self.last_id = ""
        self.end: dict[str, Any] = {}
        """Data of the last end event."""

    def run(self) -> None:
        while not self._leave.is_set():
            try:
                stream = connect(self._url(), self._path, self.last_id)
            except (OSError, http.client.HTTPException):
                self._leave.wait(0.02)
                continue
            with stream:
                self._stream = stream
                if stream.status == 200:
                    self.connections += 1
                    self._read(stream)
                elif stream.status == 503:
                    self._leave.wait(0.02)
                else:
                    self.faults.append(f"{stream.status} for {self.last_id!r}: {stream.body()}")
                    return
            if self.end.get("reason") == self._until:
                return

    def _read(self, stream: Stream) -> None:
        for message in stream:
            if message.event == "end":
                self.end = message.data
            else:
                self.messages.append(message)
            self.last_id = stream.last_id
        self.last_id = stream.last_id or self.last_id

    @property
    def heartbeats(self) -> int:
        """Number of heartbeats of the last stream."""
        return self._stream.heartbeats if self._stream else 0

    def break_off(self) -> None:
        """Break the connection; it reconnects by itself."""
        if self._stream:
            self._stream.break_off()

    def close(self) -> None:
        """Stop reading."""
        self._leave.set()
        self.break_off()
        self.join(60)
        assert not self.is_alive()
