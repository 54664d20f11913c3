"""What only the embedded engine does: it ends its processes, and says what it cannot do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import harness
from tests.harness import Server, eventually


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = harness.embedded(tmp_path, "--cores", "4", "--kill-timeout", "0.5")
    yield server.ready()
    server.close()


def _busy(server: Server) -> None:
    running = [server.submit("sleep 600") for _ in range(2)]
    deaf = server.submit(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"])
    for job in (*running, deaf):
        server.state(job, "RUN")
    eventually(lambda: server.output(deaf) == ["deaf\n"])
    for _ in range(50):
        server.submit("sleep 600", cores_per_task=2)


def test_stop_ends_every_process(server: Server) -> None:
    _busy(server)
    assert server.stop().status_code == 202
    assert server.wait(15) == 0
    assert not server.leftovers()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals(server: Server, number: signal.Signals) -> None:
    _busy(server)
    server.signal(number)
    assert server.wait(10) == 0
    assert not server.leftovers()


def test_drain(server: Server) -> None:
    for _ in range(20):
        server.submit("sleep 0.1")
    assert server.stop(mode="drain").json()["state"] == "draining"
    assert server.http.post("/v1/jobs/submit", json={"command": "true"}).status_code == 409
    assert server.wait(30) == 0


def test_what_a_job_leaves_behind_ends_with_it(server: Server) -> None:
    """A process that a task has put into the background holds the job, and is ended by its cancel."""
    job = server.submit(["sh", "-c", "sleep 600 & echo started"])
    eventually(lambda: server.output(job) == ["started\n"])
    server.http.post(f"/v1/jobs/{job}/cancel")
    assert server.ended(job)["result"] == "CANCELED"
    eventually(lambda: not [line for line in server.leftovers() if "sleep" in line])


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"num_nodes": 2, "num_tasks": 2}, "The server only has 1 nodes"),
        ({"gpus_per_task": 1}, "one node without gpus"),
        ({"queue": "debug"}, "queue: the embedded engine has none"),
        ({"dependencies": ["afterok:ƒ1"]}, "dependencies: the embedded engine has none"),
        ({"workdir": "/no/such/place"}, "/no/such/place is not a directory"),
    ],
)
def test_what_it_cannot_do(server: Server, parameters: dict[str, object], text: str) -> None:
    answer = server.http.post("/v1/jobs/submit", json={"command": "true", **parameters})
    assert answer.status_code == 400
    assert text in answer.json()["detail"]


def test_exclusive_takes_the_node(server: Server) -> None:
    whole = server.submit("sleep 600", num_nodes=1, exclusive=True)
    server.state(whole, "RUN")
    waiting = server.submit("true")
    server.state(waiting, "SCHED")
    assert server.job(whole)["ncores"] == 4
    server.http.post(f"/v1/jobs/{whole}/cancel")
    assert server.ended(waiting)["result"] == "COMPLETED"


def test_history_outlives_a_killed_server(tmp_path: Path) -> None:
    store = tmp_path / "kept" / "jobs.sqlite"
    first = harness.embedded(tmp_path, "--store", str(store)).ready()
    done, lost = first.run("echo kept")["id"], first.submit("sleep 600")
    first.state(lost, "RUN")
    first.signal(signal.SIGKILL)
    first.close()
    second = harness.embedded(tmp_path, "--store", str(store)).ready()
    assert second.job(done)["result"] == "COMPLETED"
    assert second.output(done) == ["kept\n"]
    ended = second.job(lost)
    assert (ended["state"], ended["result"], ended["exception"]["type"]) == ("INACTIVE", "FAILED", "lost")
    assert second.run("true")["id"] > lost
    second.close()


def test_the_temporary_store_is_removed(own_server: Callable[..., Server], tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    server = own_server(TMPDIR=str(temporary))
    assert list(temporary.rglob("jobs.sqlite"))
    server.stop()
    assert server.wait() == 0
    assert not list(temporary.rglob("jobs.sqlite"))
