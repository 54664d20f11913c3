"""Prometheus and Flux agree: on thousands of jobs, several queues, and allocated, drained and free nodes."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flux.test_history import flux_python
from tests.support.access import TokenFile
from tests.support.harness import Server, eventually, flux_start
from tests.support.metrics import scrape
from tests.support.prometheus import Prometheus

Start = Callable[[Any], Any]

JOBS = 3000
_FAILED, _CANCELED, _TIMED_OUT = 0.10, 0.05, 0.02

# Mock execution: Flux schedules the jobs, gives them states and results, and starts no process. Every fifth job is in
# the queue debug; jobs that will be canceled are held until then.
SUBMIT = """
import sys, flux, flux.job
handle, jobs = flux.Flux(sys.argv[1]), int(sys.argv[2])
failed, canceled, timed_out = (int(float(share) * jobs) for share in sys.argv[3:6])
futures = []
for number in range(jobs):
    jobspec = flux.job.JobspecV1.from_command(["job"], num_tasks=1)
    jobspec.environment = {}
    jobspec.setattr("system.exec.test.run_duration", "0.001s")
    jobspec.queue = "debug" if number % 5 == 0 else "batch"
    urgency = 16
    if number < failed:
        jobspec.setattr("system.exec.test.wait_status", 3 << 8)
    elif number < failed + canceled:
        jobspec.setattr("system.job.name", "unwanted")
        urgency = 0
    elif number < failed + canceled + timed_out:
        jobspec.setattr("system.exec.test.run_duration", "60s")
        jobspec.duration = 0.3
    futures.append(flux.job.submit_async(handle, jobspec, urgency=urgency))
# Each future is dropped with its answer: the kernel bounds how many reactors may watch one handle (about 500).
futures.reverse()
while futures:
    futures.pop().get_id()
"""


class Instance:
    """Four brokers, two queues, authentication, and the output of Flux's own commands."""

    def __init__(self, directory: Path, started: Start) -> None:
        config = directory / "queues"
        config.mkdir()
        (config / "queues.toml").write_text(
            '[queues.batch]\n[queues.debug]\n[policy.jobspec.defaults.system]\nqueue = "batch"\n'
        )
        self.tokens = TokenFile(directory, scraper="read", admin="admin")
        self.server: Server = started(
            flux_start(directory, *self.tokens.options, broker=["--test-size=4", f"--config-path={config}"])
        ).ready()
        self.admin = self.tokens.client(self.server, "admin")
        self.uri = self.admin.get("/v1/service").json()["instance"]["uri"]

    def flux(self, *command: str) -> str:
        environment = {**os.environ, "FLUX_URI": self.uri}
        return subprocess.run(
            ["flux", *command], env=environment, text=True, capture_output=True, check=True, timeout=60
        ).stdout

    def jobs(self) -> Counter[tuple[str, str, str]]:
        """Number of jobs in Flux by queue, state and result."""
        listed = self.flux("jobs", "-aA", "--count=0", "--no-header", "--format={queue} {state} {result}")
        rows = (line.lower().split() for line in listed.splitlines())
        return Counter((queue, state, result[0] if result else "") for queue, state, *result in rows)

    def cores(self) -> dict[str, int]:
        """Nodes of each state by `flux resource list`."""
        listed = self.flux("resource", "list", "--no-header", "--format={state} {ncores}", "--no-skip-empty")
        found: Counter[str] = Counter()
        for line in listed.splitlines():
            state, cores = line.split()
            found[state] += int(cores)
        return dict(found)

    def queues(self) -> dict[str, tuple[bool, bool]]:
        listed = self.flux("queue", "list", "--no-header", "--format={queue} {enabled} {started}")
        return {
            name.rstrip("*"): (enabled in ("✔", "y"), started in ("✔", "y"))
            for name, enabled, started in (line.split() for line in listed.splitlines())
        }


@pytest.fixture
def instance(tmp_path: Path, started: Start) -> Iterator[Instance]:
    found = Instance(tmp_path, started)
    yield found
    found.admin.close()


@pytest.mark.prometheus
@pytest.mark.long
def test_prometheus_agrees_with_flux(instance: Instance, tmp_path: Path, started: Start) -> None:
    credentials = tmp_path / "credentials"
    credentials.write_text(instance.tokens.tokens["scraper"])
    host = httpx.URL(instance.server.url).netloc.decode()
    prometheus = started(
        Prometheus(
            tmp_path / "prometheus",
            f"""
- job_name: flux
  authorization: {{credentials_file: {credentials}}}
  static_configs: [{{targets: ["{host}"]}}]
""",
        )
    )
    flux_python(SUBMIT, instance.uri, str(JOBS), str(_FAILED), str(_CANCELED), str(_TIMED_OUT))
    # In two halves, so that pending jobs are compared too: named queues are created stopped.
    assert instance.admin.post("/v1/queues/debug/start").status_code == 200
    pending = JOBS * 4 // 5
    eventually(lambda: instance.jobs()["debug", "inactive", "completed"] > 0, what="the first results")
    _agree(instance, prometheus, lambda jobs: sum(n for (q, *_), n in jobs.items() if q == "batch") == pending)

    assert instance.admin.post("/v1/queues/batch/start").status_code == 200
    instance.flux("resource", "drain", "3", "for the test")
    assert instance.admin.post("/v1/jobs/cancel", json={"name": "unwanted"}).status_code == 200
    jobs = _agree(instance, prometheus, lambda jobs: all(state == "inactive" for _, state, _ in jobs))
    by_result: Counter[str] = Counter()
    for (_, _, result), number in jobs.items():
        by_result[result] += number
    failed, canceled, timed_out = (int(share * JOBS) for share in (_FAILED, _CANCELED, _TIMED_OUT))
    assert by_result == {
        "failed": failed,
        "canceled": canceled,
        "timeout": timed_out,
        "completed": JOBS - failed - canceled - timed_out,
    }


def _agree(
    instance: Instance, prometheus: Prometheus, done: Callable[[Counter[tuple[str, str, str]]], bool]
) -> Counter[tuple[str, str, str]]:
    """Wait until no job changes, then until Prometheus agrees; return Flux's counts."""

    def unchanged() -> Counter[tuple[str, str, str]] | None:
        jobs = instance.jobs()
        held_or_stopped = all(state in ("sched", "inactive") for _, state, _ in jobs)
        started = {name for name, (_, started) in instance.queues().items() if started}
        waiting = instance.flux("jobs", "--filter=sched", "--no-header", "--count=0", "--format={queue} {urgency}")
        moving = [line for line in waiting.splitlines() if line.split()[0] in started and line.split()[1] != "0"]
        return jobs if held_or_stopped and not moving and done(jobs) else None

    jobs = eventually(unchanged, within=300, what="unchanged jobs")
    assert jobs.total() == JOBS
    by_state: Counter[tuple[str, str]] = Counter()
    by_result: Counter[tuple[str, str]] = Counter()
    for (queue, state, result), number in jobs.items():
        by_state[queue, state] += number
        if state == "inactive":
            by_result[queue, result] += number

    def shown() -> bool:
        return (
            _values(prometheus, "flux_jobs != 0", "queue", "state") == by_state
            and _values(prometheus, "flux_job_results_total != 0", "queue", "result") == by_result
            and _values(prometheus, "sum by (queue) (flux_job_submits_total)", "queue")
            == {("batch",): JOBS * 4 / 5, ("debug",): JOBS / 5}
        )

    def all_shown() -> bool:
        cores = instance.cores()
        shown_cores = {state: value for (state,), value in _values(prometheus, "flux_cores", "state").items()}
        return (
            shown()
            and shown_cores["allocated"] == cores.get("allocated", 0)
            and shown_cores["free"] == cores.get("free", 0)
            # Flux counts down nodes as drained, the server does not.
            and shown_cores["drained"] + shown_cores["down"] == cores.get("down", 0)
            and _values(prometheus, "flux_queue_enabled", "queue")
            == {(name,): float(enabled) for name, (enabled, _) in instance.queues().items()}
            and _values(prometheus, "flux_queue_started", "queue")
            == {(name,): float(started) for name, (_, started) in instance.queues().items()}
        )

    eventually(all_shown, within=120, what=f"Flux's figures in Prometheus: {by_state}, {by_result}, {instance.cores()}")
    return jobs


def _values(prometheus: Prometheus, query: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return a query's values by some labels."""
    return {
        tuple(each["metric"][label] for label in labels): float(each["value"][1]) for each in prometheus.query(query)
    }


def test_metrics_for_autoscaling(instance: Instance) -> None:
    """The largest pending job of a queue in nodes, also for a job that requests cores; and the last rank with a job."""
    with instance.tokens.client(instance.server, "scraper") as scraper:
        nodes = instance.admin.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
        cores = nodes[0]["cores"]

        def wanted() -> dict[str, float]:
            return scrape(scraper).by("queue", "flux_pending_nodes_max")

        def submit(**parameters: Any) -> None:
            answer = instance.admin.post("/v1/jobs/submit", json={"command": "sleep 60", **parameters})
            assert answer.status_code == 200, answer.text

        eventually(lambda: wanted() == {"batch": 0, "debug": 0}, what="no wanted nodes")
        submit(num_nodes=2)
        submit(num_nodes=4, urgency=0)
        submit(num_tasks=2 * cores + 1, queue="debug")
        eventually(lambda: wanted() == {"batch": 2, "debug": 3}, what="the pending jobs")
        assert scrape(scraper)("flux_allocated_rank_max") == -1
        assert instance.admin.post("/v1/queues/batch/start").status_code == 200
        eventually(lambda: wanted() == {"batch": 0, "debug": 3}, what="a started job")
        ranks = eventually(
            lambda: [
                n["rank"] for n in instance.admin.get("/v1/nodes?details=true").json()["nodes"] if n["cores_allocated"]
            ]
        )
        eventually(lambda: scrape(scraper)("flux_allocated_rank_max") == max(ranks), what="the last rank")
