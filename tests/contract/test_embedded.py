"""The embedded engine: the end of processes, and unsupported options."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import harness
from tests.support.harness import Server, eventually


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


def test_stop_ends_all_processes(server: Server) -> None:
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


def test_background_process_ends_with_its_job(server: Server) -> None:
    """A background process of a task keeps the job running, and is ended by its cancel."""
    job = server.submit(["sh", "-c", "sleep 600 & echo started"])
    eventually(lambda: server.output(job) == ["started\n"])
    server.http.post(f"/v1/jobs/{job}/cancel")
    assert server.ended(job)["result"] == "CANCELED"
    eventually(lambda: not [line for line in server.leftovers() if "sleep" in line])


_ELSEWHERE = ["sh", "-c", "setsid sleep 600 & echo started"]


def test_process_in_another_session_ends_with_its_cancel(server: Server) -> None:
    """Signals to the task's session do not reach it, and it keeps the task's output open."""
    job = server.submit(_ELSEWHERE)
    eventually(lambda: server.output(job) == ["started\n"])
    server.http.post(f"/v1/jobs/{job}/cancel")
    assert server.ended(job)["result"] == "CANCELED"
    assert not [line for line in server.leftovers() if "sleep" in line]
    assert server.stop(mode="drain").status_code == 202
    assert server.wait(15) == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_process_in_another_session_ends_with_the_server(server: Server, signals: int) -> None:
    holding, closed = server.submit(_ELSEWHERE), server.submit("setsid --fork sleep 600 >/dev/null 2>&1")
    eventually(lambda: server.output(holding) == ["started\n"])
    server.run(["sh", "-c", "setsid --fork sleep 600 >/dev/null 2>&1"])
    assert server.ended(closed)
    for _ in range(signals):
        server.signal(signal.SIGTERM)
    assert server.wait(15) == 0
    eventually(lambda: not server.leftovers(), within=5, what="the end of the processes of all jobs")


@pytest.fixture
def unprivileged(tmp_path: Path) -> Iterator[Server]:
    """A server that cannot signal a task of another user."""
    if os.getuid() or not shutil.which("setpriv"):
        pytest.skip("it takes root to run a task as another user")
    argv = ["setpriv", "--bounding-set", "-kill", "--inh-caps", "-kill", harness.SIDECAR, "serve", "--embedded"]
    server = Server([*argv, "--port", "0", "--cores", "4", "--kill-timeout", "0.5"], tmp_path)
    yield server.ready()
    server.close()


_ANOTHERS = ["setpriv", "--reuid", "65534", "--clear-groups", "sh", "-c", "echo started; exec sleep 600"]


def test_task_of_another_user_is_abandoned(unprivileged: Server) -> None:
    """It remains, with an error in the log; neither the end of its job nor another job's processes depend on it."""
    job = unprivileged.submit(_ANOTHERS)
    eventually(lambda: unprivileged.output(job) == ["started\n"])
    answer = unprivileged.http.post(f"/v1/jobs/{job}/signal", json={"signal": "SIGTERM"})
    assert answer.status_code == 409
    assert "another user" in answer.json()["detail"]
    assert unprivileged.http.post(f"/v1/jobs/{job}/cancel").status_code == 200
    assert unprivileged.ended(job)["result"] == "CANCELED"
    assert "a job does not end" in unprivileged.text()


@pytest.mark.parametrize("signals", [1, 2])
def test_task_of_another_user_does_not_delay_a_stop(unprivileged: Server, signals: int) -> None:
    job = unprivileged.submit(_ANOTHERS)
    eventually(lambda: unprivileged.output(job) == ["started\n"])
    unprivileged.state(unprivileged.submit("sleep 601"), "RUN")
    for _ in range(signals):
        unprivileged.signal(signal.SIGTERM)
    assert unprivileged.wait(15) == 0
    eventually(
        lambda: not [line for line in unprivileged.leftovers() if "601" in line],
        within=5,
        what="the end of the other job",
    )


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ({"num_nodes": 2, "num_tasks": 2}, "The server only has 1 nodes"),
        ({"gpus_per_task": 1}, "one node without gpus"),
        ({"queue": "debug"}, "queue: not supported by the embedded engine"),
        ({"dependencies": ["afterok:ƒ1"]}, "dependencies: not supported by the embedded engine"),
        ({"workdir": "/no/such/place"}, "/no/such/place is not a directory"),
    ],
)
def test_unsupported_options(server: Server, parameters: dict[str, object], text: str) -> None:
    answer = server.http.post("/v1/jobs/submit", json={"command": "true", **parameters})
    assert answer.status_code == 400
    assert text in answer.json()["detail"]


def test_stdin_keeps_all_variables(server: Server) -> None:
    """No shell runs in between, which would drop variables with names that it cannot have."""
    odd = {"BASH_FUNC_module%%": "() { echo loaded\n}", "my.setting": "1", "a b": "2"}
    job = server.run(["env", "-0"], stdin="text", envars=odd)["id"]
    written = server.http.get(f"/v1/jobs/{job}/output", headers={"Accept": "text/plain"}).text.split("\0")
    assert {f"{name}={value}" for name, value in odd.items()} <= set(written)


def test_exclusive_allocates_the_whole_node(server: Server) -> None:
    whole = server.submit("sleep 600", num_nodes=1, exclusive=True)
    server.state(whole, "RUN")
    waiting = server.submit("true")
    server.state(waiting, "SCHED")
    assert server.job(whole)["ncores"] == 4
    server.http.post(f"/v1/jobs/{whole}/cancel")
    assert server.ended(waiting)["result"] == "COMPLETED"


def test_history_survives_a_killed_server(tmp_path: Path) -> None:
    store = tmp_path / "kept" / "jobs.sqlite"
    first = harness.embedded(tmp_path, "--store", str(store)).ready()
    done, lost = first.run("echo kept")["id"], first.submit("sleep 600")
    assert done < 2**40, "IDs start small: JavaScript and jq round integers above 2^53"
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


def test_temporary_store_is_removed(own_server: Callable[..., Server], tmp_path: Path) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    server = own_server(TMPDIR=str(temporary))
    assert list(temporary.rglob("jobs.sqlite"))
    server.stop()
    assert server.wait() == 0
    assert not list(temporary.rglob("jobs.sqlite"))


def test_processes_of_a_killed_server_end_with_the_next_server(tmp_path: Path) -> None:
    """Processes outlive a server that is killed; the next server on the same store ends them."""
    first = harness.embedded(tmp_path / "1", "--store", str(tmp_path / "kept" / "jobs.sqlite"))
    second = harness.embedded(tmp_path / "2")
    try:
        first.ready()
        job = first.submit(["sh", "-c", "sleep 600 & exec sleep 601"])
        other = second.ready().submit("sleep 602")
        eventually(lambda: len(first.leftovers()) == 2, what="both processes of the job")
        first.signal(signal.SIGKILL)
        first.wait()
        assert len(first.leftovers()) == 2
        third = harness.embedded(tmp_path / "3", "--store", str(tmp_path / "kept" / "jobs.sqlite"))
        try:
            assert third.ready().ended(job)["result"] == "FAILED"
            eventually(lambda: not first.leftovers(), what="their end")
            assert second.job(other)["state"] == "RUN", "another server's process was ended"
        finally:
            third.close()
    finally:
        first.close()
        second.close()
