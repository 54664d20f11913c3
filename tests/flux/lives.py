"""One broker with a sequence of servers, and the jobs as Flux itself reports them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.telemetry import metrics
from tests.support.harness import Broker, Process, Server, beside
from tests.support.metrics import scrape

Register = Callable[[Process], Any]

_JOBS = """
import sys, json, flux
handle = flux.Flux(sys.argv[1])
print(json.dumps(handle.rpc("job-list.list", {"max_entries": 0, "attrs": ["all"]}, 0).get()["jobs"]))
"""
_EVENTLOGS = """
import sys, json, flux
handle = flux.Flux(sys.argv[1])
ids = [int(text) for text in sys.stdin.read().split()]
asked = [(i, handle.rpc("job-info.lookup", {"id": i, "keys": ["eventlog"], "flags": 0}, 0)) for i in ids]
found = {}
while asked:
    # Each future is dropped with its response: the kernel limits the reactors that watch one handle (about 500).
    jobid, rpc = asked.pop()
    found[jobid] = rpc.get()["eventlog"]
print(json.dumps(found))
"""
_STATES = {1: "NEW", 2: "DEPEND", 4: "PRIORITY", 8: "SCHED", 16: "RUN", 32: "CLEANUP", 64: "INACTIVE"}
_RESULTS = {1: "COMPLETED", 2: "FAILED", 4: "CANCELED", 8: "TIMEOUT"}


def check_metrics(server: Server, theirs: dict[int, dict[str, Any]]) -> None:
    """Compare the counts of jobs with those of :func:`flux_jobs`."""
    found = scrape(server.http)
    states = Counter(job["state"].lower() for job in theirs.values())
    assert found.by("state", "flux_jobs") == {state: states[state] for state in metrics.JOB_STATES}
    results = Counter(job["result"].lower() for job in theirs.values() if job.get("result"))
    assert found.by("result", "flux_job_results_total") == {each: results[each] for each in metrics.JOB_RESULTS}
    assert found.by("result", "flux_job_run_seconds_count") == {
        each: sum("t_run" in job for job in theirs.values() if job.get("result") == each.upper())
        for each in metrics.JOB_RESULTS
    }
    assert sum(found.by("queue", "flux_job_submits_total").values()) == len(theirs)
    started = [job for job in theirs.values() if "t_run" in job]
    assert sum(found.by("queue", "flux_job_wait_seconds_count").values()) == len(started)
    waited = sum(job["t_run"] - job["t_submit"] for job in started)
    assert sum(found.by("queue", "flux_job_wait_seconds_sum").values()) == pytest.approx(waited, abs=0.01)


class Lives:
    """A broker, and a server that is ended and started again.

    Args:
        broker: serves the instance.
        directory: for logs.
        register: ends the process after the test.
        options: of each server.
    """

    def __init__(self, broker: Broker, directory: Path, register: Register, *options: str) -> None:
        self.broker = broker
        self._directory = directory
        self._register = register
        self._options = options
        self.server: Server
        self.number = 0
        self.begin()

    def begin(self) -> Server:
        """Start the next server; it may not listen yet."""
        self.server = self._register(beside(self.broker, self._directory, *self._options))
        self.number += 1
        return self.server

    def end(self, number: int) -> int:
        """End the server alone, by a signal, and return its exit code."""
        self.server.signal(number)
        return self.server.wait()

    def kill(self) -> None:
        """Kill the server."""
        assert self.end(signal.SIGKILL) == -signal.SIGKILL

    def url(self) -> str:
        """Return the URL of the current server, or of the last one."""
        return self.server.listening or "http://127.0.0.1:1"


def flux_jobs(uri: str) -> dict[int, dict[str, Any]]:
    """Return every job from Flux's job-list module, with the names of states and results."""
    jobs = {}
    for job in json.loads(_python(_JOBS, uri)):
        jobs[job["id"]] = job
        job["state"] = _STATES[job["state"]]
        if "result" in job:
            job["result"] = _RESULTS[job["result"]]
    return jobs


def flux_eventlogs(uri: str, jobids: list[int]) -> dict[int, list[dict[str, Any]]]:
    """Return the eventlogs of some jobs from Flux's KVS."""
    found = json.loads(_python(_EVENTLOGS, uri, text=" ".join(map(str, jobids))))
    return {int(job): [_entry(json.loads(line)) for line in log.splitlines()] for job, log in found.items()}


def plain(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry that the server reports in the form that Flux has."""
    return _entry({name: entry[name] for name in ("timestamp", "name", "context") if name in entry})


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    return {"context": {}, **entry}


def _python(script: str, *arguments: str, text: str = "") -> str:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, text=True, input=text, capture_output=True, timeout=60
    ).stdout
