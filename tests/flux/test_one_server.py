"""An instance has one server: a second one exits with 2 and names the first, and a successor starts at once."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support import harness
from tests.support.harness import SIDECAR, Broker, Process, Server, beside

Start = Callable[[Any], Any]


def _refused(second: Server, first: Server) -> str:
    """Return the last line of a server that exits because there is another one."""
    assert second.wait(30) == 2
    line = second.text().strip().splitlines()[-1]
    assert f"pid {first.pid}" in line, line
    return line


@pytest.mark.parametrize("options", [(), ("--store", "other.sqlite")])
def test_the_second_is_refused(options: tuple[str, ...], tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=4)).running()
    first = started(beside(broker, tmp_path)).ready()
    _refused(started(beside(broker, tmp_path, *options)), first)
    assert first.run("echo running")["result"] == "COMPLETED"
    assert first.http.get("/readyz").status_code == 200


def test_a_successor_starts_at_once(tmp_path: Path, started: Start) -> None:
    """After kill -9, and while the predecessor is still ending; with the jobs that it accepted.

    A server that gets neither lease within their timeouts would exit with 2 instead of becoming ready.
    """
    broker = started(Broker(tmp_path, cores=4)).running()
    first = started(beside(broker, tmp_path, "--no-stop-on-signal")).ready()
    jobs = [first.submit("sleep 600")]
    for number in (signal.SIGKILL, signal.SIGTERM):
        successor = started(beside(broker, tmp_path, "--no-stop-on-signal"))
        first.signal(number)
        successor.ready()
        assert {each["id"] for each in successor.http.get("/v1/jobs").json()["jobs"]} == set(jobs)
        jobs.append(successor.submit("sleep 600"))
        first = successor
    assert first.stop().status_code == 202
    assert (first.wait(), broker.wait()) == (0, 0)


def test_a_server_that_hangs_keeps_the_lease(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=4)).running()
    first = started(beside(broker, tmp_path)).ready()
    first.signal(signal.SIGSTOP)
    _refused(started(beside(broker, tmp_path, "--store", "other.sqlite")), first)
    first.signal(signal.SIGCONT)
    assert first.run("true")["result"] == "COMPLETED"


def test_a_new_connection_acquires_the_lease_again(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path)).ready()
    for _ in range(3):
        assert broker.run("module", "reload", "job-manager").returncode == 0
        job = harness.eventually(
            lambda: (
                (response := server.http.post("/v1/jobs/submit", json={"command": "true"})).status_code == 200
                and response.json()["id"]
            ),
            what="a submit",
        )
        server.ready()
        assert server.job(job)["id"] == job  # its end is not checked: no job starts without a scheduler
    _refused(started(beside(broker, tmp_path, "--store", "other.sqlite")), server)


def test_servers_of_two_brokers_of_the_instance(tmp_path: Path, started: Start) -> None:
    """Each broker has its own services: the second server checks those of the others too."""
    script = tmp_path / "serve"
    script.write_text(
        "#!/bin/sh\n"
        f"flux exec -r 1 flux getattr local-uri > {tmp_path}/uri1\n"
        f"flux getattr local-uri > {tmp_path}/uri0.new && mv {tmp_path}/uri0.new {tmp_path}/uri0\n"
        "sleep 600\n"
    )
    script.chmod(0o755)
    started(Process(["flux", "start", "-s2", str(script)], tmp_path))
    harness.eventually((tmp_path / "uri0").exists, what="two brokers")
    uris = [(tmp_path / f"uri{rank}").read_text().strip() for rank in (0, 1)]
    for one, other in (uris, reversed(uris)):
        first = started(Server([SIDECAR, "serve", "--port", "0", "--uri", one, "--no-stop-on-signal"], tmp_path))
        first.ready()
        _refused(started(Server([SIDECAR, "serve", "--port", "0", "--uri", other], tmp_path)), first)
        first.signal(signal.SIGTERM)
        assert first.wait() == 0
