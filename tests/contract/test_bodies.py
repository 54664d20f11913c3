"""Bodies that are held: silent ones, those for which there is no room, and those of which much would be made."""

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

# ------------------------------------------------------------------------------------------ bodies that are held

CHUNKED = b"Host: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"
SILENT = b"POST /v1/jobs/bulk HTTP/1.1\r\n" + CHUNKED + b"\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def controls(client: httpx.Client) -> list[int]:
    """Return the statuses of a small submit, of its cancel and of a drain."""
    submitted = client.post("/v1/jobs/submit", json={"command": "sleep 600"})
    job = submitted.json().get("id", 0)
    return [submitted.status_code, client.post(f"/v1/jobs/{job}/cancel", json={"reason": "a"}).status_code]


def stopped(server: Server, client: httpx.Client) -> None:
    assert client.post("/v1/service/stop", json={"mode": "now"}).status_code == 202
    assert server.wait() == 0


def test_silent_bulks_leave_room_for_others(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path)).ready()
    with flood(server, [SILENT], 60) as connections:
        eventually(lambda: len(connections) == 60, what="all connected")
        assert all(b"HTTP/1.1 200 " in connection.recv(4096) for connection in connections)
        assert controls(server.http) == [200, 200]
        assert server.http.post("/v1/jobs/submit", json={"command": "true", "stdin": "a" * 900_000}).status_code == 200
        assert server.http.post("/login", data={"token": "x"}).status_code == 401
        stopped(server, server.http)


def test_silent_bulks_of_some_callers(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    users = {f"user{number}": "submit" for number in range(4)}
    tokens = TokenFile(tmp_path, root="admin", **users)
    server = started(embedded(tmp_path, *tokens.options)).ready()
    heads = [SILENT[:-2] + f"Authorization: {tokens.headers(user)['Authorization']}\r\n\r\n".encode() for user in users]
    with flood(server, heads, 32) as connections, tokens.client(server, "root") as root:
        eventually(lambda: len(connections) == 32, what="all connected")
        assert all(b"HTTP/1.1 200 " in connection.recv(4096) for connection in connections)
        assert controls(root) == [200, 200]
        assert server.http.post("/login", data={"token": "x"}).status_code == 401
        stopped(server, root)


def test_bulks_count_as_streams(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    tokens = TokenFile(tmp_path, alice="submit", bob="submit")
    server = started(embedded(tmp_path, *tokens.options, "--max-streams", "8")).ready()
    head = SILENT[:-2] + f"Authorization: {tokens.headers('alice')['Authorization']}\r\n\r\n".encode()
    with tokens.client(server, "alice") as alice, tokens.client(server, "bob") as bob:
        with flood(server, [head], 2) as connections:
            eventually(lambda: len(connections) == 2, what="both connected")
            assert all(b"HTTP/1.1 200 " in connection.recv(4096) for connection in connections)
            refused = problem(alice.post("/v1/jobs/bulk", json={"command": "true"}), 429)
            assert "a quarter of --max-streams" in refused["detail"]
            assert bob.post("/v1/jobs/bulk", json={"command": "true"}).status_code == 200
        eventually(lambda: alice.post("/v1/jobs/bulk", json={"command": "true"}).status_code == 200, what="a place")


def test_a_bulk_that_says_nothing_more(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """What came before counts, the line that did not come is told of, and the connection is closed."""
    server = started(embedded(tmp_path, "--body-timeout", "1")).ready()
    with connect(server) as connection:
        connection.sendall(SILENT + chunk(b'{"command":"true"}\n{"comm'))
        found = b""
        while data := connection.recv(4096):
            found += data
    assert b'"line":1,"status":200' in found
    assert b'"line":2,"status":408' in found
    assert b"--body-timeout" in found
    assert found.endswith(b"0\r\n\r\n")
    assert server.http.get("/livez").status_code == 200


@pytest.fixture
def full(tmp_path: Path, started: Callable[[Any], Server]) -> Iterator[tuple[Server, socket.socket]]:
    """A server that may hold a megabyte of bodies, and the connection that has sent nearly as much."""
    server = started(embedded(tmp_path, "--max-in-flight", "1", "--body-timeout", "3")).ready()
    with connect(server, buffer=MIB) as connection:
        head = b"POST /v1/jobs/submit HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Content-Length: 1040000\r\n\r\n" + b'{"stdin":"' + b"a" * 1_020_000)
        large = {"command": "true", "stdin": "a" * 40_000}
        eventually(lambda: server.http.post("/v1/jobs/submit", json=large).status_code == 503, what="that it is full")
        yield server, connection


def test_what_is_small_needs_no_room(full: tuple[Server, socket.socket]) -> None:
    server, _ = full
    assert controls(server.http) == [200, 200]
    assert server.http.post("/login", data={"token": "x"}).status_code == 401
    results = server.http.post("/v1/jobs/bulk", content=b'{"command":"true"}\n' * 20).text
    assert results.count('"status":200') == 20
    stopped(server, server.http)


def test_a_bulk_waits_for_room(full: tuple[Server, socket.socket]) -> None:
    """It is slowed down for as long as a body may take."""
    server, _ = full
    line = json.dumps({"command": "true", "stdin": "a" * 9000}).encode() + b"\n"
    results = server.http.post("/v1/jobs/bulk", content=line * 30).text
    assert results.count('"status":200') == 30


def test_a_bulk_for_which_there_is_no_room(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """Lines that there was no room for are refused, and may be sent again; the others count."""
    server = started(embedded(tmp_path, "--max-in-flight", "1", "--body-timeout", "2", "--bulk-window", "1")).ready()
    head = b"POST /v1/jobs/bulk HTTP/1.1\r\n" + CHUNKED + b"\r\n"
    beginning = b'{"command":"true","stdin":"' + b"a" * 1_020_000
    with connect(server, buffer=MIB) as other:
        other.sendall(head + b"%x\r\n" % len(beginning) + beginning)
        large = {"command": "true", "stdin": "a" * 40_000}
        eventually(lambda: server.http.post("/v1/jobs/submit", json=large).status_code == 503, what="that it is full")
        with connect(server, buffer=MIB) as connection:
            connection.sendall(SILENT)
            found = b""
            line = json.dumps({"command": "true", "stdin": "a" * 30_000}).encode() + b"\n"
            while b'"status":503' not in found:
                other.sendall(b"\r\n1\r\na")  # which goes on, so it does not end
                connection.sendall(chunk(line))
                found += answer(connection)
            assert b"--max-in-flight" in found
            other.close()
            connection.sendall(chunk(b'{"command":"true","name":"last"}\n') + b"0\r\n\r\n")
            assert b'"status":200' in answer(connection)


# ------------------------------------------------------------------------------------------------------- members


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
def test_parameters_with_many_members(server: Server, name: str, value: Any) -> None:
    """However they are written, and before objects are made of them; in a bulk too."""
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
def test_parameters_with_as_many_members_as_they_may_have(server: Server, parameters: dict[str, Any]) -> None:
    body = {"command": "true", "urgency": 0, **parameters}
    job = server.http.post("/v1/jobs/submit", json=body).json()["id"]
    spec = server.http.get(f"/v1/jobs/{job}/jobspec?environment=true").json()
    if "envars" in parameters:
        assert parameters["envars"].items() <= spec["attributes"]["system"]["environment"].items()
    if "command" in parameters:
        assert spec["tasks"][0]["command"] == parameters["command"]
    assert server.http.post(f"/v1/jobs/{job}/cancel").status_code == 200
