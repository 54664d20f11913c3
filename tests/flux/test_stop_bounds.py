"""Every stop ends within its time limit, whatever hangs or fails; each test is a row of the table in design.md."""

from __future__ import annotations

import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flux.operator import Lead
from tests.flux.test_signals import handled
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import ROOT, SIDECAR, Broker, Server, beside, embedded, eventually
from tests.support.kubernetes_api import HANG

Start = Callable[[Any], Any]

#: Seconds for a stop on a busy machine; the limits themselves are below 20.
_WITHIN = 45.0
#: Seconds that a busy machine may add to a limit that is measured separately.
_SLACK = 3.0

_DEAF = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.05; done"]


def broken(directory: Path, fault: str, *options: str) -> Server:
    """Start a server with the embedded engine and a fault of :mod:`tests.flux.broken`."""
    argv = [sys.executable, "-m", "tests.flux.broken", fault, "serve", "--port", "0", *(options or ("--embedded",))]
    return Server(argv, directory, PYTHONPATH=str(ROOT))


def ends(server: Server, code: int = 0, within: float = _WITHIN) -> float:
    """Wait for the server to exit with a code; return the seconds that it took."""
    begin = time.monotonic()
    assert server.wait(within) == code, server.text()
    return time.monotonic() - begin


STOPS = {
    "stop": lambda server: server.stop(),
    "drain": lambda server: server.stop(mode="drain"),
    "signal": lambda server: server.signal(signal.SIGTERM),
}
by_each_way = pytest.mark.parametrize("way", STOPS)


# -------------------------------------------------------------------------------------------- parts of the server


@by_each_way
@pytest.mark.parametrize("fault", ["hung-disk", "dead-survey", "bad-closes"])
def test_a_part_that_hangs_or_dies(tmp_path: Path, started: Start, fault: str, way: str) -> None:
    server = started(broken(tmp_path, fault))
    server.run("true")
    STOPS[way](server)
    ends(server)
    assert not server.leftovers()


@pytest.mark.parametrize("way", ["stop", "signal"])
def test_everything_hangs_at_once(tmp_path: Path, started: Start, way: str) -> None:
    """All parts share one limit: launchers, jobs and closes have none of their own."""
    server = started(broken(tmp_path, "everything", "--embedded", "--kill-timeout", "1", "--launchers", "sh"))
    for launcher in (False, True):
        answer = server.http.post("/v1/jobs/submit", json={"command": _DEAF, "is_launcher": launcher})
        assert answer.status_code == 200, answer.text
    eventually(lambda: len(server.leftovers()) >= 2, what="a job and a launcher that ignore SIGTERM")
    STOPS[way](server)
    assert ends(server) < 1 + 12 + _SLACK
    assert not server.leftovers()


def test_a_start_that_hangs(tmp_path: Path, started: Start) -> None:
    server = started(broken(tmp_path, "hung-open"))
    eventually(lambda: handled(server.pid), what="a server that handles signals")
    server.signal(signal.SIGTERM)
    ends(server)
    assert "the server leaves before it has started" in server.text()


def test_a_blocked_event_loop(tmp_path: Path, started: Start) -> None:
    server = started(broken(tmp_path, "blocked-loop"))
    server.submit(_DEAF)
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        for _ in range(10):
            connection.sendall(b"GET /v1/service HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.settimeout(1)
            try:
                connection.recv(65536)
            except TimeoutError:
                break
        server.signal(signal.SIGTERM)
        ends(server)
    eventually(lambda: not server.leftovers(), within=10, what="the end of the job")


def test_a_stop_that_fails(tmp_path: Path, started: Start) -> None:
    """The service continues and reports the reason; the failed task is shown, and the next stop works."""
    server = started(broken(tmp_path, "failing-stop"))
    assert server.stop().status_code == 202
    service = eventually(lambda: _service(server) if "ZeroDivisionError" in _service(server)["reason"] else None)
    assert (service["state"], service["mode"], service["deadline"]) == ("running", None, None)
    assert "task stop has died once" in server.http.get("/readyz?verbose").text.lower()
    server.run("true")
    assert server.stop().status_code == 202
    ends(server)


def test_a_stop_by_signal_that_fails(tmp_path: Path, started: Start) -> None:
    """A signal still ends the server."""
    server = started(broken(tmp_path, "failing-stop"))
    assert server.url
    server.signal(signal.SIGTERM)
    ends(server)


# ---------------------------------------------------------------------------------------------- jobs and launchers


@by_each_way
def test_a_launcher_that_ignores_sigterm(tmp_path: Path, started: Start, way: str) -> None:
    server = started(embedded(tmp_path, "--kill-timeout", "1", "--launchers", "sh"))
    answer = server.http.post("/v1/jobs/submit", json={"command": _DEAF, "is_launcher": True})
    assert answer.status_code == 200, answer.text
    launchers = server.http.get("/v1/launchers").json()
    assert "running" in str(launchers)
    STOPS[way](server)
    if way == "drain":  # which waits for it: another stop does not
        server.stop()
    ends(server)
    assert not server.leftovers()


@by_each_way
def test_jobs_that_ignore_sigterm(tmp_path: Path, started: Start, way: str) -> None:
    server = started(embedded(tmp_path, "--kill-timeout", "1", "--cores", "4"))
    jobs = [server.submit(_DEAF) for _ in range(3)]
    eventually(lambda: all(server.output(job) == ["deaf\n"] for job in jobs))
    STOPS[way](server)
    if way == "drain":
        server.stop()
    ends(server)
    assert not server.leftovers()


# -------------------------------------------------------------------------------------------------------- callers


@by_each_way
def test_readers_that_never_read(tmp_path: Path, started: Start, way: str) -> None:
    server = started(embedded(tmp_path))
    for _ in range(40):
        server.submit("true", name="x" * 1000)
    readers = []
    for path in ("/v1/events", "/v1/jobs?details=true", "/v1/jobs/submit", "/livez"):
        for _ in range(5):
            reader = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"
            if path.endswith("submit"):  # whose body never ends
                head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{{"
            reader.sendall(head.encode())
            readers.append(reader)
    STOPS[way](server)
    ends(server)
    for reader in readers:
        reader.close()


# ----------------------------------------------------------------------------------------------------- API server


@pytest.fixture
def hanging_api(tmp_path: Path) -> Iterator[ClusterAPI]:
    with ClusterAPI(tmp_path / "kubernetes") as api:
        api.pods[0] = api.pod(0, socket.gethostname())
        for what in ("list pods", "get jobs", "create events"):
            api.trouble[what] = HANG
        yield api


@by_each_way
def test_an_api_server_that_does_not_answer(tmp_path: Path, started: Start, hanging_api: ClusterAPI, way: str) -> None:
    server = started(embedded(tmp_path, *hanging_api.options))
    assert server.url
    STOPS[way](server)
    ends(server)


# ---------------------------------------------------------------------------------------------------------- broker


@pytest.fixture
def broker(tmp_path: Path, started: Start) -> Broker:
    made: Broker = started(Broker(tmp_path, cores=4))
    return made.running()


def test_a_broker_that_is_stopped(broker: Broker, tmp_path: Path, started: Start) -> None:
    """A requested stop fails with the reason, and works when the broker continues; a signal ends the server meanwhile."""
    server = started(beside(broker, tmp_path)).ready()
    broker.signal(signal.SIGSTOP)
    assert server.stop().status_code == 202
    assert _service(server)["state"] in ("waiting", "stopping", "running")
    server.signal(signal.SIGTERM)
    ends(server)
    broker.signal(signal.SIGCONT)
    assert broker.run("uptime").returncode == 0


def test_suspended_broker_that_continues(broker: Broker, tmp_path: Path, started: Start) -> None:
    server = started(beside(broker, tmp_path)).ready()
    broker.signal(signal.SIGSTOP)
    assert server.stop().status_code == 202
    broker.signal(signal.SIGCONT)
    state = eventually(lambda: found if (found := _state(server)) in ("gone", "running") else None, what="its outcome")
    if state == "running":  # Flux did not respond in time, so the stop has failed
        assert server.stop().status_code == 202
    ends(server)
    assert broker.wait(_WITHIN) == 0


def test_a_broker_that_dies_during_the_stop(broker: Broker, tmp_path: Path, started: Start) -> None:
    server = started(beside(broker, tmp_path)).ready()
    job = server.submit(_DEAF)
    server.state(job, "RUN")
    server.stop()
    broker.signal(signal.SIGKILL)
    ends(server)


def test_a_broker_that_never_comes_to_run(tmp_path: Path, started: Start) -> None:
    """The quorum waits for a missing broker: after the timeout both end, with 0."""
    lead = started(Lead(tmp_path))
    server = started(beside(lead, tmp_path, "--start-timeout", "1"))
    eventually(lambda: _service(server)["instance"]["broker_state"] == "quorum", what="quorum")
    assert server.stop().json()["state"] == "waiting"
    ends(server)
    assert lead.wait(_WITHIN) == 0, lead.text()
    assert "has not come to run within 1 s" in server.text()


def test_no_broker_at_all(tmp_path: Path, started: Start) -> None:
    argv = ["flux-sidecar", "serve", "--port", "0", "--uri", f"local://{tmp_path}/none"]
    server = started(Server(argv, tmp_path))
    assert server.url
    server.signal(signal.SIGTERM)
    assert ends(server) < 10


def test_an_end_file_that_cannot_be_written(tmp_path: Path, started: Start) -> None:
    """As on a full disk: the broker is ended by a signal, and the server exits with a failure."""
    with ClusterAPI(tmp_path / "kubernetes") as api:
        api.pods[0] = api.pod(0, socket.gethostname())
        lead = started(Lead(tmp_path))
        server = started(beside(lead, tmp_path, "--start-timeout", "1", *_no_end_file(tmp_path), *api.options))
        eventually(lambda: _service(server)["instance"]["broker_state"] == "quorum", what="quorum")
        server.stop()
        ends(server, 70)
        assert lead.wait(_WITHIN) == 0, lead.text()
        assert "StoppedBeforeRun" in [event["reason"] for event in api.events]
    assert server.text().count("the end file cannot be written") == 2  # it is retried at the end


def test_an_end_file_that_cannot_be_written_without_a_broker(tmp_path: Path, started: Start) -> None:
    argv = [SIDECAR, "serve", "--port", "0", "--uri", f"local://{tmp_path}/none", "--start-timeout", "1"]
    server = started(Server([*argv, *_no_end_file(tmp_path)], tmp_path))
    assert server.url
    server.stop()
    ends(server, 70)


def _no_end_file(directory: Path) -> tuple[str, str]:
    return "--end-file", str(directory / "missing/end")


def test_a_hung_flux_thread(broker: Broker, tmp_path: Path, started: Start) -> None:
    server = started(broken(tmp_path, "hung-flux-thread", "--uri", broker.uri)).ready()
    server.submit("sleep 600")
    refused = eventually(
        lambda: (answer := server.http.post("/v1/jobs/submit", json={"command": "true"})).status_code == 503 and answer
    )
    assert "Flux thread" in refused.text or "has not answered" in refused.text
    eventually(lambda: "Flux thread has done nothing" in server.http.get("/livez").text, what="a failing /livez")
    server.signal(signal.SIGTERM)
    ends(server)


def test_a_dead_ping(broker: Broker, tmp_path: Path, started: Start) -> None:
    """The task is required: the server is not ready while it is dead, and not alive after several deaths."""
    server = started(broken(tmp_path, "dead-ping", "--uri", broker.uri))
    eventually(lambda: "task ping has died" in server.http.get("/readyz").text.lower(), what="a failing /readyz")
    eventually(lambda: server.http.get("/livez").status_code == 503, what="a failing /livez")
    server.stop()
    ends(server)
    assert broker.wait(_WITHIN) == 0


def test_a_dead_feed(broker: Broker, tmp_path: Path, started: Start) -> None:
    """It reads the history again, and misses no event of the batch in which it died."""
    server = started(broken(tmp_path, "dead-feed", "--uri", broker.uri)).ready()
    job = server.submit("sleep 0.1")
    eventually(lambda: "task feed has died once" in server.http.get("/readyz?verbose").text.lower(), what="the death")
    assert server.ended(job)["result"] == "COMPLETED"
    assert server.run("true")["result"] == "COMPLETED"
    assert server.http.get("/livez").status_code == 200
    server.stop()
    ends(server)
    assert broker.wait(_WITHIN) == 0


# ---------------------------------------------------------------------------------------------------------- clock


def test_a_drain_ends_at_its_deadline_whatever_the_clock_says(tmp_path: Path, started: Start) -> None:
    """The wall clock is set back by an hour while the stop waits for jobs."""
    argv = [
        sys.executable, "-c",
        "import sys, time; clock = time.time; begin = time.monotonic()\n"
        "time.time = lambda: clock() - (3600 if time.monotonic() - begin > 3 else 0)\n"
        "sys.argv = ['flux-sidecar', 'serve', '--embedded', '--port', '0']\n"
        "from sidecar.__main__ import main\nmain()",
    ]  # fmt: skip
    server = started(Server(argv, tmp_path))
    server.submit("sleep 600")
    server.stop(mode="drain", timeout=4)
    assert ends(server) < _WITHIN


def _service(server: Server) -> dict[str, Any]:
    return dict(server.http.get("/v1/service").json())


def _state(server: Server) -> str:
    try:
        return str(_service(server)["state"])
    except httpx.TransportError:
        return "gone"


def test_a_stop_without_a_broker_ends_none(tmp_path: Path, started: Start) -> None:
    """A requested stop waits for its own timeout, and does not report more than was done."""
    argv = [SIDECAR, "serve", "--port", "0", "--uri", "local:///nosuch/local", "--start-timeout", "1"]
    server = started(Server(argv, tmp_path))
    assert server.stop().status_code == 202
    ends(server)
    assert "(state unknown); no broker was reached, and none is ended" in server.text()
    assert "its broker is ended" not in server.text()
