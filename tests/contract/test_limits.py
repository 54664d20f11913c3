"""Limits: callers that send too much, too slowly or too often are refused, and others are not affected."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.support.access import TokenFile
from tests.support.authority import Authority, options
from tests.support.harness import Server, embedded, eventually
from tests.support.sse import ask

_SLOW = 200


Limited = Callable[..., Server]


@pytest.fixture(params=["plain", "tls"])
def limited(request: pytest.FixtureRequest, tmp_path: Path, started: Callable[[Any], Server]) -> Limited:
    """Start a server with its own limits, with TLS and without: limits must not depend on it."""

    def start(*limits: str) -> Server:
        if request.param == "plain":
            return started(embedded(tmp_path, *limits)).ready()
        authority = Authority(tmp_path)
        server = started(embedded(tmp_path, *limits, *options(authority.serve())))
        server.trusts = authority.context()
        return server.ready()

    return start


def _connect(server: Server) -> socket.socket:
    """Connect, and send nothing, not even a handshake."""
    host, port = server.url.partition("://")[2].split(":")
    return socket.create_connection((host, int(port)), timeout=60)


@contextlib.contextmanager
def connections(server: Server, number: int, first: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that send a little, and wait."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(number):
            connection = _connect(server)
            if isinstance(server.trusts, ssl.SSLContext) and first:
                connection = server.trusts.wrap_socket(connection, server_hostname="localhost")
            stack.enter_context(connection)
            connection.sendall(first)
            found.append(connection)
        yield found


def _closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        while connection.recv(1024):
            pass
        return True
    except TimeoutError:
        return False
    except OSError:
        return True


def test_slow_headers_are_cut_off(limited: Limited) -> None:
    """Slow loris: two hundred connections send single bytes and are closed; other requests succeed meanwhile."""
    server = limited("--header-timeout", "2")
    with connections(server, _SLOW, b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-A: ") as slow:
        begun, worst, open_ = time.monotonic(), 0.0, set(slow)
        while open_ and time.monotonic() - begun < 20:
            before = time.monotonic()
            assert server.http.get("/v1/jobs").status_code == 200
            assert server.http.get("/livez").status_code == 200
            worst = max(worst, time.monotonic() - before)
            for connection in list(open_)[:20]:
                with contextlib.suppress(OSError):
                    connection.send(b"a")
                if _closed(connection):
                    open_.discard(connection)
        assert not open_
        assert worst < 1
    assert server.run("true")["returncode"] == 0


def test_slow_body_is_cut_off(tmp_path: Any, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path, "--body-timeout", "0.5")).ready()
    head = b"POST /v1/jobs/submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    with connections(server, 1, head) as (slow,):
        assert b"HTTP/1.1 408 " in slow.recv(4096)


def test_too_large_headers(server: Server) -> None:
    assert server.http.get("/v1/jobs", headers={"X-A": "a" * 200_000}).status_code == 431
    assert server.http.get("/v1/jobs", headers={f"X-{n}": "a" for n in range(500)}).status_code == 431
    assert server.http.get("/v1/jobs").status_code == 200


def test_flood_is_refused_with_429(own_server: Callable[..., Server], tmp_path: Any) -> None:
    """The rate limit is for each caller: requests of another caller and probes succeed, and quickly."""
    tokens = TokenFile(tmp_path, flood="submit", other="read")
    server = own_server(*tokens.options, "--rate-limit", "20")
    statuses: Counter[int] = Counter()
    waits: list[str] = []
    done = threading.Event()

    def flood() -> None:
        with tokens.client(server, "flood") as client:
            while not done.is_set():
                answer = client.get("/v1/jobs")
                statuses[answer.status_code] += 1
                if answer.status_code == 429:
                    waits.append(answer.headers["Retry-After"])

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(8)]
    with tokens.client(server, "other") as other:
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: statuses[429] > 500, what="500 refusals")
            took = []
            for _ in range(20):
                before = time.monotonic()
                assert server.http.get("/livez").status_code == 200
                took.append(time.monotonic() - before)
                assert other.get("/v1/jobs").status_code == 200
        finally:
            done.set()
            for thread in threads:
                thread.join(60)
    assert sorted(took)[len(took) // 2] < 0.1
    assert statuses.keys() == {200, 429}
    assert set(waits) == {"1"}


def test_anonymous_requests_are_limited(own_server: Callable[..., Server], tmp_path: Any) -> None:
    server = own_server(*TokenFile(tmp_path, someone="read").options, "--rate-limit", "5")
    statuses = Counter(server.http.get("/v1/jobs").status_code for _ in range(60))
    assert statuses.keys() == {401, 429}
    assert server.http.get("/livez").status_code == 200


def test_unread_bulk_results(tmp_path: Any, started: Callable[[Any], Server]) -> None:
    """A client that sends a bulk submit and reads no results is disconnected before many of them are buffered."""
    server = started(embedded(tmp_path, "--send-timeout", "1")).ready()
    lines = b"{}\n" * 21_000
    head = b"POST /v1/jobs/bulk HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    before = most = server.memory
    with connections(server, 1, head) as (writer,), contextlib.suppress(OSError):
        for _ in range(200):  # four million lines
            writer.sendall(b"%x\r\n%b\r\n" % (len(lines), lines))
            most = max(most, server.memory)
        pytest.fail("all of it was taken")
    assert most - before < 80 * 1024 * 1024
    assert server.http.get("/livez").status_code == 200


def test_unread_exports(tmp_path: Any, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path, "--send-timeout", "5")).ready()
    line = b'{"command":["true","%b"],"urgency":0}\n' % (b"a" * 20_000)
    assert server.http.post("/v1/jobs/bulk", content=line * 1000).text.count('"status":200') == 1000
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(ask(server.url, "/v1/jobs", buffer=4096, Accept="application/x-ndjson"))
            for _ in range(5)
        ]
        assert {reader.recv(15) for reader in readers} == {b"HTTP/1.1 200 OK"}
        eventually(lambda: server.text().count("a response was not read") == 5, what="the end of all connections")
    assert len(server.http.get("/v1/jobs", headers={"Accept": "application/x-ndjson"}).text.splitlines()) == 1000


def test_streams_of_one_caller_are_limited(own_server: Callable[..., Server], tmp_path: Any) -> None:
    tokens = TokenFile(tmp_path, many="read", other="read")
    server = own_server(*tokens.options, "--max-streams", "8")
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            stream = stack.enter_context(ask(server.url, "/v1/events", **tokens.headers("many")))
            assert b" 200 OK" in stream.recv(200)
        with tokens.client(server, "many") as client:
            assert "a quarter" in problem(client.get("/v1/events"), 429)["detail"]
        stream = stack.enter_context(ask(server.url, "/v1/events", **tokens.headers("other")))
        assert b" 200 OK" in stream.recv(200)


def test_max_streams(own_server: Callable[..., Server]) -> None:
    server = own_server("--max-streams", "3")
    first = [ask(server.url, "/v1/events") for _ in range(3)]
    try:
        for connection in first:
            assert b" 200 OK" in connection.recv(200)
        refused = problem(server.http.get("/v1/events"), 429)
        assert "--max-streams" in refused["detail"]
    finally:
        for connection in first:
            connection.close()

    def again() -> bool:
        with server.http.stream("GET", "/v1/events") as answer:
            return answer.status_code == 200

    eventually(again, what="a free stream")


def test_max_connections(limited: Limited) -> None:
    """Connections that send nothing, over TLS not even a handshake, count too; they are closed."""
    server = limited("--max-connections", "10", "--header-timeout", "2")
    with connections(server, 60, b"") as idle:
        assert server.http.get("/livez").status_code == 200  # uses one of the ten connections, and keeps it
        assert sum(not _closed(connection) for connection in idle) <= 9
        with httpx.Client(base_url=server.url, verify=server.verify) as another:
            eventually(lambda: _status(another) == 200, within=10, what="the end of the idle ones")
        assert all(_closed(connection) for connection in idle)


def test_connection_over_the_limit_gets_503(tmp_path: Any, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path, "--max-connections", "10")).ready()
    with connections(server, 9, b""), httpx.Client(base_url=server.url) as another:
        assert server.http.get("/livez").status_code == 200  # the tenth, which is kept
        refused = another.get("/livez")
        assert refused.status_code == 503
        assert "--max-connections" in refused.text


def test_failed_handshakes_do_not_count(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """asyncio does not report the end of a connection whose handshake has failed; it must not count forever."""
    authority = Authority(tmp_path)
    options_ = ("--max-connections", "10", "--header-timeout", "600", *options(authority.serve()))
    server = started(embedded(tmp_path, *options_))
    server.trusts = authority.context()
    server.ready()
    for first in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):  # no handshake; an incomplete one
        for _ in range(20):
            with _connect(server) as connection:
                connection.sendall(first)
                connection.shutdown(socket.SHUT_WR)
                assert _ended(connection)
    with httpx.Client(base_url=server.url, verify=server.verify) as another:
        assert another.get("/livez").status_code == 200


def _status(client: httpx.Client) -> int:
    """Return the status of a probe; 0 if the connection was refused."""
    try:
        return client.get("/livez").status_code
    except httpx.TransportError:
        return 0


def _ended(connection: socket.socket) -> bool:
    """Wait for the end of a connection; fail if it does not end in time."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /v1/jobs/submit HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer a\0b\r\n\r\n",
        b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /v1/jobs HTTP/9.9\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\n\r\nnonsense\r\n\r\n",
    ],
)
def test_ambiguous_requests_are_refused(server: Server, head: bytes) -> None:
    """The connection ends too, so that no second request can be smuggled in."""
    with connections(server, 1, head) as (connection,):
        answer = b""
        while chunk := connection.recv(4096):  # until the end of the connection, or the time-out of the socket
            answer += chunk
    assert answer.startswith(b"HTTP/1.0 505 " if b"HTTP/9.9" in head else b"HTTP/1.0 400 "), answer
    assert "a request failed" not in server.text()
    assert server.http.get("/livez").status_code == 200
