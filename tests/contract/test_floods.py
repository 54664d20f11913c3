"""Floods: of requests that fill the log, and of connections for which there are no descriptors."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.access import TokenFile
from tests.support.flood import MIB, Watch, connect, request
from tests.support.harness import SIDECAR, Server, embedded, eventually

_SENT = 4000  # requests of each of four connections

LONG = "a" * 7000
#: What four connections send without a credential, again and again.
FLOODS = {
    "no credential": request("GET", f"/v1/jobs/{LONG}"),
    "a wrong credential": request("GET", f"/v1/jobs/{LONG}", Authorization="Bearer a"),
    "another host": request("GET", f"/{LONG}").replace(b"localhost", b"evil.example"),
    "logins": request("POST", f"/login?{LONG}", b"token=a", Content_Type="application/x-www-form-urlencoded"),
    "changes": request("POST", f"/v1/jobs/{LONG}/cancel"),
    "wrong parameters of a probe": request("GET", f"/livez?{LONG}"),
    "what cannot be expected": request("GET", f"/{LONG}", Expect="a"),
}


def sent(server: Server, data: bytes, number: int) -> None:
    """Send requests over one connection, and read all that comes back; begin anew where it is closed."""
    left = number
    while left > 0:
        with contextlib.suppress(OSError), connect(server, buffer=MIB) as connection:
            some = min(left, 50)
            left -= some
            connection.sendall(data * some)
            answers = b""
            while answers.count(b"HTTP/1.1 ") < some and (more := connection.recv(MIB)):
                answers += more


def four(work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


@pytest.fixture(scope="module", params=["json", "console"])
def logging(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp(f"logging-{request.param}")
    tokens = TokenFile(directory, alice="read")
    server = embedded(directory, *tokens.options, "--log-format", request.param)
    yield server.ready()
    server.close()


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_requests_is_no_flood_of_lines(logging: Server, kind: str) -> None:
    before = logging.log.stat().st_size
    four(lambda: sent(logging, FLOODS[kind], _SENT // 8))
    assert logging.http.get("/livez").status_code == 200
    assert logging.log.stat().st_size - before < MIB  # 14 MB were sent


def test_a_flood_of_what_is_no_http(logging: Server) -> None:
    before = logging.log.stat().st_size
    four(lambda: sent(logging, b"nonsense %b\r\n\r\n" % LONG.encode(), 200))
    assert logging.log.stat().st_size - before < MIB


def test_malformed_forms_leave_nothing_behind(logging: Server) -> None:
    """A library that warns of each odd text keeps all of them, and writes them beside the log."""

    def odd(number: int) -> bytes:
        parts = []
        for part in range(33):
            texts = "".join(f";{number:x}-{part:x}-{each:x} (=1" for each in range(30))
            parts.append(f'--a\r\nContent-Disposition: form-data{texts}; name="u{part}"\r\n\r\nx\r\n')
        body = "".join([*parts, "--a--\r\n"]).encode()
        return request("POST", "/login", body, Content_Type="multipart/form-data; boundary=a")

    sent(logging, odd(0), 1)
    before, memory = logging.text(), logging.memory
    for number in range(1, 200):
        sent(logging, odd(number), 1)
    more = logging.text().removeprefix(before)
    assert "BadContentDisposition" not in more
    assert len(more) < MIB
    assert logging.memory - memory < 16 * MIB  # 200,000 texts would be 50 MiB


def test_it_is_said_how_many_lines_were_left_out(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path, *TokenFile(tmp_path, alice="read").options, "--log-format", "json")).ready()
    sent(server, request("GET", "/v1/jobs"), 300)

    def counted() -> bool:
        found = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
        written = len([line for line in found if line["event"] == "request" and line["status"] == 401])
        left_out = sum(line.get("request", 0) for line in found if "dropped" in line["event"])
        return bool(left_out > 0 and written + left_out == 300)

    eventually(counted, what="the count of the others")


@pytest.mark.parametrize("path", [f"/{LONG}", "/v1/jobs", f"/v1/jobs?{LONG}", f"/v1/jobs/{LONG}"])
def test_a_flood_where_no_credential_is_asked_for(tmp_path: Path, started: Callable[[Any], Server], path: str) -> None:
    server = started(embedded(tmp_path, "--log-format", "json")).ready()
    before = server.log.stat().st_size
    four(lambda: sent(server, request("GET", path), 1000))
    assert server.log.stat().st_size - before < 8 * MIB  # at most 5,000 lines at once, and 500 a second
    assert all(len(line) < 4000 for line in server.text().splitlines())


# ------------------------------------------------------------------------------------------------- descriptors


@pytest.fixture
def narrow(tmp_path: Path, started: Callable[[Any], Server]) -> Server:
    """A server that may have 64 open files, and is to have 4,096 connections."""
    return started(
        Server(
            ["prlimit", "--nofile=64", SIDECAR, "serve", "--embedded", "--port", "0", "--log-format", "json"], tmp_path
        )
    ).ready()


def test_connections_end_before_descriptors(narrow: Server) -> None:
    """One too many is answered, jobs go on to start, and the log has a line for that."""
    with contextlib.ExitStack() as stack, Watch(narrow) as watch:
        eventually(lambda: watch.took, what="a connection of its own")
        for _ in range(100):
            with contextlib.suppress(OSError):
                stack.enter_context(connect(narrow))
        some = len(watch.took) + 20
        eventually(lambda: len(watch.took) > some, what="twenty probes")
        assert watch.p99 < 30
        assert narrow.http.post("/v1/jobs/submit", json={"command": "true"}).status_code == 200
        with httpx.Client(base_url=narrow.url) as another:
            assert another.get("/livez").status_code == 503
        assert narrow.descriptors < 64
    lowered = [line for line in narrow.text().splitlines() if "--max-connections is lowered" in line]
    assert len(lowered) == 1
    assert len(narrow.text().splitlines()) < 300
    assert narrow.run("true")["returncode"] == 0


def test_no_descriptors_at_all(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """Something else has taken them, as jobs do: the log says so once, and others are served again afterwards."""
    server = started(embedded(tmp_path, "--log-format", "json")).ready()
    open_ = server.descriptors
    assert server.http.get("/livez").status_code == 200
    _prlimit(server.pid, open_)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(server))
        eventually(lambda: "no connection can be accepted" in server.text(), what="a line")
        for _ in range(100):
            assert server.http.get("/livez").status_code == 200  # the connection that there is
        assert server.text().count("no connection can be accepted") == 1
        _prlimit(server.pid, 1024)
        with httpx.Client(base_url=server.url) as another:
            assert another.get("/livez").status_code == 200
    assert len([line for line in server.text().splitlines() if '"level":"error"' in line]) < 20


def _prlimit(pid: int, number: int) -> None:
    import resource

    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))
