"""Many concurrent connections that request much and read nothing, and the server's latency meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import string
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

from tests.support.harness import Server

MIB = 1024 * 1024
#: Names of three letters, more than fit into a body of a megabyte.
NAMES = ["".join(letters) for letters in itertools.product(string.ascii_letters, repeat=3)][:110_000]


def connect(server: Server, *, buffer: int = 4096) -> socket.socket:
    """Open a connection with a small receive buffer."""
    host, port = server.url.partition("://")[2].rsplit(":", 1)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    connection.settimeout(30)
    connection.connect((host, int(port)))
    if isinstance(server.trusts, ssl.SSLContext):
        return server.trusts.wrap_socket(connection, server_hostname="localhost")
    return connection


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of a request; underscores in names of headers stand for dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@contextlib.contextmanager
def flood(server: Server, requests: Sequence[bytes], number: int) -> Iterator[list[socket.socket]]:
    """Send requests over many concurrent connections, each the next one in turn, and read no response."""
    found: list[socket.socket] = []

    def send(data: bytes) -> None:
        with contextlib.suppress(OSError):  # the connection may be closed meanwhile, which is a response too
            connection = connect(server)
            found.append(connection)
            connection.sendall(data)

    threads = [threading.Thread(target=send, args=(requests[n % len(requests)],)) for n in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        for connection in found:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(60)
        for connection in found:
            connection.close()


def answer(connection: socket.socket, most: int = 64 * 1024) -> bytes:
    """Read from a connection until it ends or sends nothing for a while."""
    found = b""
    connection.settimeout(30)
    with contextlib.suppress(OSError):
        while len(found) < most and (data := connection.recv(65536)):
            found += data
            connection.settimeout(0.3)
    return found


#: Probes the server continuously, and writes the duration of each probe. It is a separate process: threads that send
#: megabytes would be measured with it.
_PROBE = """
import http.client, sys, time
connection = http.client.HTTPConnection(sys.argv[1], timeout=30)
while True:
    before = time.monotonic()
    connection.request("GET", "/livez")
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    print(time.monotonic() - before, flush=True)
    time.sleep(0.01)
"""


class Watch:
    """Probes a server continuously, over its own connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.took: list[float] = []
        self.memory = 0
        self.ended = False

    def __enter__(self) -> Watch:
        argv = [sys.executable, "-c", _PROBE, self._server.url.partition("://")[2]]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = self._process.poll() is not None
        self._process.kill()
        self._process.wait(30)
        self._thread.join(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _run(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.took.append(float(line))
            self.memory = max(self.memory, self._server.memory)

    @property
    def p99(self) -> float:
        """Return the seconds within which 99 of 100 probes were answered."""
        assert not self.ended, "a probe was not answered"
        return sorted(self.took)[int(0.99 * (len(self.took) - 1))]
