"""Load: some connections, each of which sends its next request when it has its response.

The load shares the cores with the measured server, so it must be cheap: no client library and no asyncio, only sockets
under one epoll. The requests are encoded beforehand, and of a response only the status and the end are parsed. The same
program loads the server and its limit.

Input is a file: a JSON list of requests ``[method, path, headers, body]``. Output is JSON: ``seconds`` in all, and
for each request in its order ``latencies`` in seconds and ``sizes`` in bytes as they were received.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_LARGE = 1 << 18


def encode(host: str, method: str, path: str, headers: dict[str, str], body: str) -> bytes:
    """Return the bytes of a request."""
    data = body.encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if data:
        lines.append(f"Content-Length: {len(data)}")
    return "\r\n".join([*lines, "", ""]).encode() + data


class Connection:
    """One kept-alive connection, with at most one request in flight."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = -1
        self.begin = 0.0
        self._size = 0
        self._end = 0  # 0: the head is incomplete; -1: chunked, of unknown length
        self._tail = b""

    def send(self, number: int, request: bytes) -> None:
        """Send a request; it fits into the socket's buffer, or the response only begins after it."""
        self.number, self._size, self._end, self._tail = number, 0, 0, b""
        self.begin = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int:
        """Process received data; return the response's size when it is complete, 0 before."""
        data = self.socket.recv(_LARGE)
        if not data:
            raise SystemExit("the server has closed a connection")
        self._size += len(data)
        if self._end == 0:
            data = self._tail = self._tail + data
            head, found, _ = data.partition(b"\r\n\r\n")
            if not found:
                return 0
            self._end = self._length(head)
        if self._end > 0:
            return self._size if self._size >= self._end else 0
        # JSON holds no bare newline followed by a chunk's end: only the last chunk looks like this.
        self._tail = (self._tail + data)[-5:]
        return self._size if self._tail == b"0\r\n\r\n" else 0

    def _length(self, head: bytes) -> int:
        if head[9:10] != b"2":
            raise SystemExit(f"an answer is no success: {self._tail.decode(errors='replace')[:600]}")
        _, found, rest = head.lower().partition(b"content-length:")
        return len(head) + 4 + int(rest.partition(b"\r\n")[0]) if found else -1


def run(url: str, connections: int, requests: list[list[Any]]) -> dict[str, Any]:
    """Send all requests over so many connections."""
    address = urlsplit(url)
    assert address.hostname
    assert address.port
    work = iter(enumerate([encode(address.netloc, *request) for request in requests]))
    latencies, sizes = [0.0] * len(requests), [0] * len(requests)
    poll, open_ = select.epoll(), {}
    for _ in range(min(connections, len(requests))):
        connection = Connection(address.hostname, address.port)
        poll.register(connection.socket, select.EPOLLIN)
        open_[connection.socket.fileno()] = connection
    left = len(requests)
    begin = time.perf_counter()
    for connection in open_.values():
        connection.send(*next(work))
    while left:
        for number, _ in poll.poll():
            connection = open_[number]
            size = connection.receive()
            if size:
                latencies[connection.number] = time.perf_counter() - connection.begin
                sizes[connection.number] = size
                left -= 1
                following = next(work, None)
                if following is not None:
                    connection.send(*following)
    return {"seconds": time.perf_counter() - begin, "latencies": latencies, "sizes": sizes}


def main(url: str, connections: int, file: str) -> None:
    json.dump(run(url, connections, json.loads(Path(file).read_text())), sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
