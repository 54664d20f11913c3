"""Signals and urgencies, with both engines."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.domain import fluid
from tests.contract.test_errors import problem
from tests.support.harness import Server, eventually

#: Prints the signals that it receives; ends at the first TERM.
LISTENER = [
    "sh", "-c",
    "for s in HUP USR1 USR2; do trap \"echo $s\" $s; done; trap 'echo TERM; exit 7' TERM; echo ready;"
    " while :; do sleep 0.05; done",
]  # fmt: skip

HIGHEST = 2**32 - 1


def send(server: Server, job: int, number: Any, **how: Any) -> httpx.Response:
    return server.http.post(f"/v1/jobs/{job}/signal", **(how or {"json": {"signal": number}}))


def urgency(server: Server, job: int, value: Any) -> httpx.Response:
    return server.http.post(f"/v1/jobs/{job}/urgency", json={"urgency": value})


@pytest.mark.parametrize(
    ("value", "name", "short"),
    [("SIGUSR1", "SIGUSR1", "USR1"), ("usr2", "SIGUSR2", "USR2"), (1, "SIGHUP", "HUP"), ("12", "SIGUSR2", "USR2")],
)
def test_signals_by_name_and_number(server: Server, value: str | int, name: str, short: str) -> None:
    job = server.submit(LISTENER)
    eventually(lambda: server.output(job) == ["ready\n"])
    answer = send(server, job, value)
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "Message": "Job is sent the signal.",
        "id": job,
        "f58id": fluid.f58(job),
        "signal": name,
    }
    eventually(lambda: f"{short}\n" in server.output(job), what=f"{short} in the output")
    assert send(server, job, None, data={"signal": "term"}).json()["signal"] == "SIGTERM"
    assert server.ended(job)["returncode"] == 7


def test_signal_reaches_every_task(own_server: Callable[..., Server]) -> None:
    server = own_server()
    job = server.submit(LISTENER, num_tasks=2)
    eventually(lambda: server.output(job) == ["ready\n"] * 2)
    assert send(server, job, signal.SIGUSR1).status_code == 200
    eventually(lambda: server.output(job).count("USR1\n") == 2)
    assert send(server, job, None, params={"signal": "9"}).json()["signal"] == "SIGKILL"
    ended = server.ended(job)
    assert (ended["result"], ended["returncode"]) == ("FAILED", 128 + 9)


def test_real_time_signal_name(server: Server) -> None:
    job = server.submit("sleep 600")
    server.state(job, "RUN")
    # A signal before the start of the task has no recipient.
    answers: list[httpx.Response] = []

    def ended() -> bool:
        if server.job(job)["state"] == "INACTIVE":
            return True
        answers.append(send(server, job, "rtmin+2"))
        return False

    eventually(ended)
    assert answers[0].json()["signal"] == "SIGRTMIN+2"
    assert server.job(job)["returncode"] == 128 + signal.SIGRTMIN + 2


def test_only_running_jobs_can_be_signalled(server: Server) -> None:
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    assert problem(send(server, held, "TERM"), 409)["detail"] == "Job cannot be signalled: job is not running."
    server.http.post(f"/v1/jobs/{held}/cancel")
    server.ended(held)
    assert "has ended already" in problem(send(server, held, "TERM"), 409)["detail"]


@pytest.mark.parametrize("value", ["SIGNOTHING", "", "65", "0", "-1", "RTMIN+99", "٣"])
def test_unknown_signal(server: Server, value: str) -> None:
    body = problem(send(server, 1, value), 400)
    assert "SIGUSR1" in body["detail"]
    assert "use 1 to 64" in body["detail"]


@pytest.mark.parametrize("value", [0, 65, -1, 1.5, True, None, ["TERM"]])
def test_invalid_signals(server: Server, value: Any) -> None:
    assert "signal: " in problem(send(server, 1, value), 400)["detail"]


def test_hold_release_and_expedite(server: Server) -> None:
    held = server.submit("true", urgency=0)
    assert server.state(held, "SCHED")["priority"] == 0
    answer = urgency(server, held, "HOLD")
    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "Message": "Job has the new urgency.",
        "id": held,
        "f58id": fluid.f58(held),
        "old_urgency": 0,
        "urgency": 0,
    }
    answer = urgency(server, held, "expedite")
    assert (answer.json()["old_urgency"], answer.json()["urgency"]) == (0, 31)
    ended = server.ended(held)
    assert (ended["result"], ended["urgency"], ended["priority"]) == ("COMPLETED", 31, HIGHEST)
    assert ended["t_submit"] <= ended["t_priority"] <= ended["t_sched"] <= ended["t_run"]
    assert "has ended already" in problem(urgency(server, held, 16), 409)["detail"]


def test_expedited_submit_has_the_highest_priority(server: Server) -> None:
    assert server.run("true", urgency=31)["priority"] == HIGHEST


def test_job_overtakes_others_and_falls_back(own_server: Callable[..., Server], tmp_path: Path) -> None:
    server = own_server()
    cores = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"][0]["cores"]
    flag, log = tmp_path / "flag", tmp_path / "log"
    first = server.submit(["sh", "-c", f"while ! test -e {flag}; do sleep 0.02; done"], cores_per_task=cores)
    server.state(first, "RUN")
    names = ["a", "b", "c", "d"]
    jobs = {name: server.submit(["sh", "-c", f"echo {name} >>{log}"], cores_per_task=cores) for name in names}
    for job in jobs.values():
        server.state(job, "SCHED")
    assert urgency(server, jobs["c"], 20).json()["old_urgency"] == 16
    assert urgency(server, jobs["a"], "3").status_code == 200
    assert urgency(server, jobs["b"], "default").json()["urgency"] == 16
    assert urgency(server, jobs["d"], "expedite").status_code == 200
    for name, wanted in (("c", 20), ("a", 3), ("b", 16), ("d", HIGHEST)):
        eventually(lambda job=jobs[name], wanted=wanted: server.job(job)["priority"] == wanted)  # type: ignore[misc]
        assert server.job(jobs[name])["state"] == "SCHED"
    flag.touch()
    for job in jobs.values():
        assert server.ended(job)["result"] == "COMPLETED"
    assert log.read_text().split() == ["d", "c", "b", "a"]


def test_urgency_of_a_running_job_is_unchanged(server: Server) -> None:
    job = server.submit("sleep 600")
    server.state(job, "RUN")
    detail = problem(urgency(server, job, 20), 409)["detail"]
    assert detail == "Job cannot be reprioritized: urgency cannot be changed once resources are allocated."
    server.http.post(f"/v1/jobs/{job}/cancel")


@pytest.mark.parametrize(("value", "text"), [
    ("soon", "use 0 to 31, or hold (0), default (16), expedite (31)"),
    ("32", "use 0 to 31"),
    ("-1", "use 0 to 31"),
    ("", "use 0 to 31"),
    (32, "urgency: expected a whole number <= 31"),
    (-1, "urgency: expected a whole number >= 0"),
    (1.5, "urgency: expected"),
    (None, "urgency: this is required"),
])  # fmt: skip
def test_invalid_urgencies(server: Server, value: Any, text: str) -> None:
    assert text in problem(urgency(server, 1, value), 400)["detail"]


def test_errors_name_missing_and_unknown_parameters(server: Server) -> None:
    for verb in ("signal", "urgency"):
        body = problem(server.http.post(f"/v1/jobs/1/{verb}", json={"singal": 1}), 400)
        assert f"{verb}: this is required." in body["Errors"]
        assert len(body["Errors"]) == 2
