"""All jobs have correct results, however many there are and whenever the server was started."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.domain import fluid
from tests.support import harness
from tests.support.harness import Broker, Process, Server, beside, eventually, flux_start

Start = Callable[[Any], Any]

# Mock execution: Flux schedules the jobs, gives them states and results, and starts no process.
SUBMIT_MANY = """
import sys, flux, flux.job
handle = flux.Flux(sys.argv[1])
futures = []
for number in range(int(sys.argv[2])):
    jobspec = flux.job.JobspecV1.from_command(["job", str(number)])
    jobspec.environment = {}
    jobspec.setattr("system.exec.test.run_duration", "0.001s")
    if number % 10 == 0:
        jobspec.setattr("system.exec.test.wait_status", 3 << 8)
    elif number % 50 == 1:
        jobspec.setattr("system.exec.test.mock_exception", "run")
    futures.append(flux.job.submit_async(handle, jobspec, urgency=0 if number % 100 == 99 else 16))
# Each future is dropped with its response: the kernel limits the reactors that watch one handle (about 500).
futures.reverse()
while futures:
    print(int(futures.pop().get_id()))
"""

JOB_LIST = """
import sys, json, flux
handle = flux.Flux(sys.argv[1])
print(json.dumps(handle.rpc("job-list.list", {"max_entries": 0, "attrs": ["all"]}, 0).get()["jobs"]))
"""


def flux_python(script: str, *arguments: str) -> str:
    """Run a script with the Flux bindings in a process of its own."""
    return subprocess.run([sys.executable, "-c", script, *arguments], check=True, text=True, capture_output=True).stdout


def job_list(uri: str) -> dict[int, dict[str, Any]]:
    """Return the jobs of Flux's own job-list module."""
    return {job["id"]: job for job in json.loads(flux_python(JOB_LIST, uri))}


@pytest.mark.long
def test_five_thousand_jobs(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=16)).running()
    server = started(beside(broker, tmp_path)).ready()
    ids = [int(line) for line in flux_python(SUBMIT_MANY, broker.uri, "5000").split()]

    def only_held_jobs_left() -> bool:
        return int(server.http.get("/v1/service").json()["active_jobs"]) == 50

    eventually(only_held_jobs_left, within=600, what="all but the held jobs ended")
    listed = server.http.get("/v1/jobs").json()["jobs"]
    assert [job["id"] for job in listed] == sorted(ids, reverse=True)
    jobs = server.http.get("/v1/jobs", params={"details": "true"}).json()
    _equal_to_flux(jobs, job_list(broker.uri))
    results = [jobs[str(job)]["result"] for job in ids]
    assert {result: results.count(result) for result in set(results)} == {
        "COMPLETED": 4350, "FAILED": 600, "": 50,
    }  # fmt: skip
    matches = server.http.get("/v1/jobs/search", params={"query": "failed", "length": 1}).json()
    assert (matches["recordsTotal"], matches["recordsMatched"]) == (5000, 600)
    # The server is killed; another one beside the same broker shows the same jobs.
    server.signal(signal.SIGKILL)
    server.wait()
    successor = started(beside(broker, tmp_path)).ready()
    assert successor.http.get("/v1/jobs").json()["jobs"] == listed
    assert successor.http.get("/v1/jobs", params={"details": "true"}).json() == jobs


def _equal_to_flux(jobs: dict[str, dict[str, Any]], theirs: dict[int, dict[str, Any]]) -> None:
    """Compare every field of every job with Flux's own job-list."""
    states = {2: "DEPEND", 4: "PRIORITY", 8: "SCHED", 16: "RUN", 32: "CLEANUP", 64: "INACTIVE"}
    results = {1: "COMPLETED", 2: "FAILED", 4: "CANCELED", 8: "TIMEOUT"}
    assert jobs.keys() == {str(job) for job in theirs}
    for job, their in theirs.items():
        our = jobs[str(job)]
        their["state"] = states[their["state"]]
        if "result" in their:
            their["result"] = results[their["result"]]
        assert {name: our.get(name) for name in their} == their, fluid.f58(job)


def test_every_kind_of_result_equals_that_of_flux(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=4))
    server = started(beside(broker, tmp_path)).ready()
    jobs = [
        server.submit("true"),
        server.submit("false", name="named", urgency=0),
        server.submit("no-such-program"),
        server.submit(["sh", "-c", "kill -9 $$"]),
        server.submit("sleep 60", runtime=0.3),
        server.submit("true", num_nodes=1, exclusive=True, num_tasks=2),
        server.submit("true", num_tasks=3, cores_per_task=1),
    ]
    # Flux refuses a job that depends on the success of one that has failed: that one starts after it.
    dependent = server.submit("true", dependencies=[f"afterok:{fluid.f58(jobs[1])}"])
    broker.run("job", "urgency", fluid.f58(jobs[1]), "16")
    waiting = server.submit("true", dependencies=f"afterany:{jobs[4]}")
    cancelled, held = server.submit("sleep 60"), server.submit("sleep 60", urgency=0)
    server.state(cancelled, "RUN")
    broker.run("job", "urgency", fluid.f58(held), "20")
    server.state(held, "RUN")
    broker.run("update", fluid.f58(held), "duration=1h")
    broker.run("job", "memo", fluid.f58(held), "note=remember")
    server.http.post(f"/v1/jobs/{cancelled}/cancel", json={"reason": "enough"})
    for job in (*jobs, dependent, waiting, cancelled):
        server.ended(job)
    broker.run("submit", "-N1", "--tasks-per-core=1", "true")
    broker.run("cancel", fluid.f58(held))
    server.ended(held)
    broker.run("queue", "idle")
    eventually(lambda: server.http.get("/v1/service").json()["active_jobs"] == 0)
    listed = server.http.get("/v1/jobs", params={"details": "true"}).json()
    _equal_to_flux(listed, job_list(broker.uri))
    assert listed[str(dependent)]["result"] == "CANCELED" or listed[str(dependent)]["exception"]["type"] == "dependency"
    assert listed[str(held)]["annotations"]["user"] == {"note": "remember"}


def test_a_rejected_job_is_not_listed(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path)).ready()
    response = server.http.post("/v1/jobs/submit", json={"command": "true", "queue": "nowhere"})
    assert response.status_code == 400
    assert "nowhere" in response.json()["detail"]
    assert server.http.get("/v1/jobs").json()["jobs"] == []


def test_jobs_submitted_elsewhere_are_listed(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path)).ready()
    job = broker.run("submit", "--job-name=elsewhere", "echo", "hi").stdout.strip()
    eventually(lambda: server.http.get(f"/v1/jobs/{job}").status_code == 200)
    ended = server.ended(job)
    assert (ended["name"], ended["f58id"], ended["result"]) == ("elsewhere", job, "COMPLETED")
    assert server.output(job) == ["hi\n"]


def test_the_store_of_another_instance_is_set_aside(tmp_path: Path, started: Start) -> None:
    """Job IDs restart in every instance: one file must not mix two of them."""
    store = tmp_path / "volume" / "jobs.sqlite"
    ids = []
    for run in ("first", "second"):
        broker = started(Broker(tmp_path / run))
        server = started(beside(broker, tmp_path, "--store", str(store))).ready()
        assert server.http.get("/v1/jobs").json()["jobs"] == []
        ids.append(server.run("true", name=run)["id"])
        server.stop()
        assert server.wait() == 0
    assert len(list(store.parent.glob("jobs.*.sqlite"))) == 1


def test_the_same_instance_continues_with_its_store(tmp_path: Path, started: Start) -> None:
    """A broker that restarts from its state directory is the same instance, with the same jobs."""
    store = tmp_path / "jobs.sqlite"
    seen: list[int] = []
    for _ in range(2):
        broker = started(_with_state(tmp_path))
        server = started(beside(broker, tmp_path, "--store", str(store))).ready()
        assert [job["id"] for job in server.http.get("/v1/jobs").json()["jobs"]] == seen
        seen.insert(0, server.run("true")["id"])
        server.stop()
        assert (server.wait(), broker.wait()) == (0, 0)
    assert not list(tmp_path.glob("jobs.*.sqlite"))


def _with_state(directory: Path) -> Process:
    state = directory / "state"
    state.mkdir(exist_ok=True)
    return Broker(directory, f"-Sstatedir={state}")


@pytest.mark.parametrize("beside_broker", [False, True])
def test_jobs_in_a_kept_store_end_with_their_instance(tmp_path: Path, started: Start, beside_broker: bool) -> None:
    """After a stop `now` no job is pending for ever; a server without an instance reads the store."""
    store = tmp_path / "kept.sqlite"
    if beside_broker:
        broker = started(Broker(tmp_path, cores=4))
        server = started(beside(broker, tmp_path, "--store", str(store))).ready()
    else:
        server = started(flux_start(tmp_path, "--store", str(store), broker=harness.cores(tmp_path, 4))).ready()
    running = [server.submit("sleep 600") for _ in range(4)]
    pending = [server.submit("sleep 600") for _ in range(200)]
    for job in running:
        server.state(job, "RUN")
    assert server.stop(mode="now").status_code == 202
    assert server.wait(60) == 0
    reader = started(
        Server(
            [harness.SIDECAR, "serve", "--port", "0", "--uri", f"local://{tmp_path}/missing", "--store", str(store)],
            tmp_path,
        )
    )
    jobs = reader.http.get("/v1/jobs", params={"details": "true"}).json()
    assert {job["state"] for job in jobs.values()} == {"INACTIVE"}
    assert {jobs[str(job)]["result"] for job in pending} == {"CANCELED"}
    assert {jobs[str(job)]["result"] for job in running} <= {"CANCELED", "FAILED"}
    assert all(jobs[str(job)]["exception"]["occurred"] for job in (*running, *pending))
