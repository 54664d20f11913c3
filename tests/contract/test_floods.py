"""Floods of requests that fill the log, and of connections that use up the file descriptors."""

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
#: Requests that four connections send without a credential, repeatedly.
FLOODS = {
    "no credential": request("GET", f"/v1/jobs/{LONG}"),
    "a wrong credential": request("GET", f"/v1/jobs/{LONG}", Authorization="Bearer a"),
    "another host": request("GET", f"/{LONG}").replace(b"localhost", b"evil.example"),
    "logins": request("POST", f"/login?{LONG}", b"token=a", Content_Type="application/x-www-form-urlencoded"),
    "changes": request("POST", f"/v1/jobs/{LONG}/cancel"),
    "wrong parameters of a probe": request("GET", f"/livez?{LONG}"),
    "what cannot be expected": request("GET", f"/{LONG}", Expect="a"),
}


def send_and_read(server: Server, data: bytes, number: int) -> None:
    """Send requests over one connection and read the responses; reconnect when it is closed."""
    left = number
    while left > 0:
        with contextlib.suppress(OSError), connect(server, buffer=MIB) as connection:
            some = min(left, 50)
            left -= some
            connection.sendall(data * some)
            answers = b""
            while answers.count(b"HTTP/1.1 ") < some and (more := connection.recv(MIB)):
                answers += more


def in_four_threads(work: Callable[[], None]) -> None:
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
def test_flood_of_requests_does_not_flood_the_log(logging: Server, kind: str) -> None:
    before = logging.log.stat().st_size
    in_four_threads(lambda: send_and_read(logging, FLOODS[kind], _SENT // 8))
    assert logging.http.get("/livez").status_code == 200
    assert logging.log.stat().st_size - before < MIB  # of 14 MB sent


def test_flood_of_invalid_http_does_not_flood_the_log(logging: Server) -> None:
    before = logging.log.stat().st_size
    in_four_threads(lambda: send_and_read(logging, b"nonsense %b\r\n\r\n" % LONG.encode(), 200))
    assert logging.log.stat().st_size - before < MIB


def test_malformed_forms_use_no_memory(logging: Server) -> None:
    """A library that warns of each malformed text would keep all texts, and write them past the log."""

    def malformed(number: int) -> bytes:
        parts = []
        for part in range(33):
            texts = "".join(f";{number:x}-{part:x}-{each:x} (=1" for each in range(30))
            parts.append(f'--a\r\nContent-Disposition: form-data{texts}; name="u{part}"\r\n\r\nx\r\n')
        body = "".join([*parts, "--a--\r\n"]).encode()
        return request("POST", "/login", body, Content_Type="multipart/form-data; boundary=a")

    send_and_read(logging, malformed(0), 1)
    before, memory = logging.text(), logging.memory
    for number in range(1, 200):
        send_and_read(logging, malformed(number), 1)
    more = logging.text().removeprefix(before)
    assert "BadContentDisposition" not in more
    assert len(more) < MIB
    assert logging.memory - memory < 16 * MIB  # 200,000 texts would be 50 MiB


def test_number_of_dropped_lines_is_logged(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path, *TokenFile(tmp_path, alice="read").options, "--log-format", "json")).ready()
    send_and_read(server, request("GET", "/v1/jobs"), 300)

    def counted() -> bool:
        found = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
        written = len([line for line in found if line["event"] == "request" and line["status"] == 401])
        dropped = sum(line.get("request", 0) for line in found if "dropped" in line["event"])
        return bool(dropped > 0 and written + dropped == 300)

    eventually(counted, what="the count of dropped lines")


@pytest.mark.parametrize("path", [f"/{LONG}", "/v1/jobs", f"/v1/jobs?{LONG}", f"/v1/jobs/{LONG}"])
def test_flood_without_authentication(tmp_path: Path, started: Callable[[Any], Server], path: str) -> None:
    server = started(embedded(tmp_path, "--log-format", "json")).ready()
    before = server.log.stat().st_size
    in_four_threads(lambda: send_and_read(server, request("GET", path), 1000))
    assert server.log.stat().st_size - before < 8 * MIB  # at most 5,000 lines at once, and 500 a second
    assert all(len(line) < 4000 for line in server.text().splitlines())


# ------------------------------------------------------------------------------------------------- descriptors


@pytest.fixture
def few_descriptors(tmp_path: Path, started: Callable[[Any], Server]) -> Server:
    """A server with a limit of 64 open files, and 4,096 allowed connections."""
    return started(
        Server(
            ["prlimit", "--nofile=64", SIDECAR, "serve", "--embedded", "--port", "0", "--log-format", "json"], tmp_path
        )
    ).ready()


def test_connection_limit_fits_the_descriptors(few_descriptors: Server) -> None:
    """A connection over the limit gets a response, jobs still start, and the log reports the limit."""
    with contextlib.ExitStack() as stack, Watch(few_descriptors) as watch:
        eventually(lambda: watch.took, what="a connection of its own")
        for _ in range(100):
            with contextlib.suppress(OSError):
                stack.enter_context(connect(few_descriptors))
        some = len(watch.took) + 20
        eventually(lambda: len(watch.took) > some, what="twenty probes")
        assert watch.p99 < 30
        assert few_descriptors.http.post("/v1/jobs/submit", json={"command": "true"}).status_code == 200
        with httpx.Client(base_url=few_descriptors.url) as another:
            assert another.get("/livez").status_code == 503
        assert few_descriptors.descriptors < 64
    lowered = [line for line in few_descriptors.text().splitlines() if "--max-connections is lowered" in line]
    assert len(lowered) == 1
    assert len(few_descriptors.text().splitlines()) < 300
    assert few_descriptors.run("true")["returncode"] == 0


def test_descriptors_used_by_others(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    """When jobs use up the descriptors, the log says so once, and requests are served again afterwards."""
    server = started(embedded(tmp_path, "--log-format", "json")).ready()
    open_ = server.descriptors
    assert server.http.get("/livez").status_code == 200
    _prlimit(server.pid, open_)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(connect(server))
        eventually(lambda: "no connection can be accepted" in server.text(), what="the log line")
        for _ in range(100):
            assert server.http.get("/livez").status_code == 200  # the open connection
        assert server.text().count("no connection can be accepted") == 1
        _prlimit(server.pid, 1024)
        with httpx.Client(base_url=server.url) as another:
            assert another.get("/livez").status_code == 200
    assert len([line for line in server.text().splitlines() if '"level":"error"' in line]) < 20


def _prlimit(pid: int, number: int) -> None:
    import resource

    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))
