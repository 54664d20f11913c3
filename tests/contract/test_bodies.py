"""Limits of request bodies: idle bodies, memory for bodies, and bodies that expand to many objects."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.support.access import TokenFile
from tests.support.flood import MIB, NAMES, answer, connect, flood
from tests.support.harness import Server, embedded, eventually

# ------------------------------------------------------------------------------------------------- idle bodies

CHUNKED = b"Host: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
IDLE_BULK = b"POST /v1/jobs/bulk HTTP/1.1\r\n" + CHUNKED + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def control_statuses(client: httpx.Client) -> list[int]:
    """Return the statuses of a small submit and of its cancel."""
    submitted = client.post("/v1/jobs/submit", json={"command": "sleep 600"})
    job = submitted.json().get("id", 0)
    return [submitted.status_code, client.post(f"/v1/jobs/{job}/cancel", json={"reason": "a"}).status_code]


def stop_now(server: Server, client: httpx.Client) -> None:
    assert client.post("/v1/service/stop", json={"mode": "now"}).status_code == 202
    assert server.wait() == 0


def test_idle_bulks_do_not_block_other_requests(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path)).ready()
    with flood(server, [IDLE_BULK], 60) as connections:
        eventually(lambda: len(connections) == 60, what="all connected")
        assert all(b"HTTP/1.1 200 " in connection.recv(4096) for connection in connections)
        assert control_statuses(server.http) == [200, 200]
        assert server.http.post("/v1/jobs/submit", json={"command": "true", "stdin": "a" * 900_000}).status_code == 200
        assert server.http.post("/login", data={"token": "x"}).status_code == 401
        stop_now(server, server.http)


def test_idle_bulks_do_not_block_other_callers(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    users = {f"user{number}": "submit" for number in range(4)}
    tokens = TokenFile(tmp_path, root="admin", **users)
    server = started(embedded(tmp_path, *tokens.options)).ready()
    heads = [
        IDLE_BULK[:-2] + f"Authorization: {tokens.headers(user)['Authorization']}\r\n\r\n".encode() for user in users
    ]
    with flood(server, heads, 32) as connections, tokens.client(server, "root") as root:
        eventually(lambda: len(connections) == 32, what="all connected")
        assert all(b"HTTP/1.1 200 " in connection.recv(4096) for connection in connections)
        assert control_statuses(root) == [200, 200]
        assert server.http.post("/login", data={"token": "x"}).status_code == 401
        stop_now(server, root)


def test_bulks_count_as_streams(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    tokens = TokenFile(tmp_path, alice="submit", bob="submit")
    server = started(embedded(tmp_path, *tokens.options, "--max-streams", "8")).ready()
    head = IDLE_BULK[:-2] + f"Authorization: {tokens.headers('alice')['Authorization']}\r\n\r\n".encode()
    with tokens.client(server, "alice") as alice, tokens.client(server, "bob") as bob:
        with flood(server, [head], 2) as connections:
            eventually(lambda: len(connections) == 2, what="both connected")
            assert all(b"HTTP/1.1 200 " in connection.recv(4096) for connection in connections)
            refused = problem(alice.post("/v1/jobs/bulk", json={"command": "true"}), 429)
            assert "a quarter of --max-streams" in refused["detail"]
            assert bob.post("/v1/jobs/bulk", json={"command": "true"}).status_code == 200
        eventually(
            lambda: alice.post("/v1/jobs/bulk", json={"command": "true"}).status_code == 200, what="a free stream"
        )


def test_idle_bulk_times_out(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """Complete lines are accepted, the incomplete line gets a result with 408, and the connection closes."""
    server = started(embedded(tmp_path, "--body-timeout", "1")).ready()
    with connect(server) as connection:
        connection.sendall(IDLE_BULK + chunk(b'{"command":"true"}\n{"comm'))
        found = b""
        while data := connection.recv(4096):
            found += data
    assert b'"line":1,"status":200' in found
    assert b'"line":2,"status":408' in found
    assert b"--body-timeout" in found
    assert found.endswith(b"0\r\n\r\n")
    assert server.http.get("/livez").status_code == 200


@pytest.fixture
def full_server(tmp_path: Path, started: Callable[[Any], Server]) -> Iterator[tuple[Server, socket.socket]]:
    """A server with a body limit of 1 MiB, and a connection whose request uses nearly all of it."""
    server = started(embedded(tmp_path, "--max-in-flight", "1", "--body-timeout", "3")).ready()
    with connect(server, buffer=MIB) as connection:
        head = b"POST /v1/jobs/submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 1040000\r\n\r\n" + b'{"stdin":"' + b"a" * 1_020_000)
        large = {"command": "true", "stdin": "a" * 40_000}
        eventually(
            lambda: server.http.post("/v1/jobs/submit", json=large).status_code == 503, what="that the limit is reached"
        )
        yield server, connection


def test_small_bodies_bypass_the_memory_limit(full_server: tuple[Server, socket.socket]) -> None:
    server, _ = full_server
    assert control_statuses(server.http) == [200, 200]
    assert server.http.post("/login", data={"token": "x"}).status_code == 401
    results = server.http.post("/v1/jobs/bulk", content=b'{"command":"true"}\n' * 20).text
    assert results.count('"status":200') == 20
    stop_now(server, server.http)


def test_bulk_waits_for_memory(full_server: tuple[Server, socket.socket]) -> None:
    """A bulk submit is slowed down for up to the body timeout."""
    server, _ = full_server
    line = json.dumps({"command": "true", "stdin": "a" * 9000}).encode() + b"\n"
    results = server.http.post("/v1/jobs/bulk", content=line * 30).text
    assert results.count('"status":200') == 30


def test_bulk_lines_are_refused_without_memory(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """Lines that do not fit are refused, and can be sent again; the others are accepted."""
    server = started(embedded(tmp_path, "--max-in-flight", "1", "--body-timeout", "2", "--bulk-window", "1")).ready()
    head = b"POST /v1/jobs/bulk HTTP/1.1\r\n" + CHUNKED + b"\r\n"
    beginning = b'{"command":"true","stdin":"' + b"a" * 1_020_000
    with connect(server, buffer=MIB) as other:
        other.sendall(head + b"%x\r\n" % len(beginning) + beginning)
        large = {"command": "true", "stdin": "a" * 40_000}
        eventually(
            lambda: server.http.post("/v1/jobs/submit", json=large).status_code == 503, what="that the limit is reached"
        )
        with connect(server, buffer=MIB) as connection:
            connection.sendall(IDLE_BULK)
            found = b""
            line = json.dumps({"command": "true", "stdin": "a" * 30_000}).encode() + b"\n"
            while b'"status":503' not in found:
                other.sendall(b"\r\n1\r\na")  # the full request continues, so this one does not end
                connection.sendall(chunk(line))
                found += answer(connection)
            assert b"--max-in-flight" in found
            other.close()
            connection.sendall(chunk(b'{"command":"true","name":"last"}\n') + b"0\r\n\r\n")
            assert b'"status":200' in answer(connection)


# ---------------------------------------------------------------------------------- parameters with many members


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("envars", dict.fromkeys(NAMES[:10_001], "")),
        ("envars", json.dumps(dict.fromkeys(NAMES[:10_001], ""))),
        ("envars", json.dumps({"a": [[]] * 10_001})),
        ("option_flags", dict.fromkeys(NAMES[:10_001], 1)),
        ("option_flags", {"a": {"b": [[]] * 10_001}}),
        ("option_flags", {"a": ["é, "] * 10_001}),
        ("option_flags", ",".join(f"{name}=1" for name in NAMES[:10_002])),
        ("option_flags", {"a": "[" + "1," * 10_001 + "1]"}),
        ("option_flags", {"a": "[" + "1," * 6_000 + "1]", "b": "[" + "1," * 6_000 + "1]"}),
        ("option_flags", {f"{name}.b.c.d": 1 for name in NAMES[:4_000]}),
        ("dependencies", ["afterok:f1"] * 10_001),
        ("dependencies", ",".join(["afterok:f1"] * 10_002)),
        ("command", ["a"] * 100_001),
        ("command", ["a", [[]] * 100_001]),
        ("nothing", [[]] * 10_001),
        ("reason", {"a": [{}] * 10_001}),
    ],
    ids=lambda value: str(value)[:20],
)
def test_parameters_with_too_many_members_are_rejected(server: Server, name: str, value: Any) -> None:
    """In every content type, and before objects are created; in a bulk too."""
    most = "100,000" if name == "command" else "10,000"
    body = {"command": "true", name: value}
    answers = [problem(server.http.post("/v1/jobs/submit", json=body), 400)]
    answers += [json.loads(server.http.post("/v1/jobs/bulk", json=body).text)["problem"]]
    if isinstance(value, str):
        answers += [problem(server.http.post("/v1/jobs/submit", data=body), 400)]
    for found in answers:
        assert f"{name}: it has more than {most} members" in found["detail"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"envars": dict.fromkeys(NAMES[:9_999], "a,[{")},
        {"option_flags": {"a": [[]] * 9_997}},
        {"command": ["true", *["a"] * 99_990]},
        {"stdin": 'a,"\\[{' * 90_000},
    ],
    ids=lambda value: str(value)[:14],
)
def test_parameters_with_the_maximum_of_members(server: Server, parameters: dict[str, Any]) -> None:
    body = {"command": "true", "urgency": 0, **parameters}
    job = server.http.post("/v1/jobs/submit", json=body).json()["id"]
    spec = server.http.get(f"/v1/jobs/{job}/jobspec?environment=true").json()
    if "envars" in parameters:
        assert parameters["envars"].items() <= spec["attributes"]["system"]["environment"].items()
    if "command" in parameters:
        assert spec["tasks"][0]["command"] == parameters["command"]
    assert server.http.post(f"/v1/jobs/{job}/cancel").status_code == 200
