"""The history is read beside the live events: what the server does meanwhile, and what may happen to the process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flux.lives import Lives, check_metrics, flux_eventlogs, flux_jobs, plain
from tests.support.harness import Broker, Server, beside, eventually

Start = Callable[[Any], Any]

_JOBS = 1500
_SUBMIT = """
import sys, flux, flux.job
handle = flux.Flux(sys.argv[1])
jobids = []
for number in range(int(sys.argv[2])):
    jobspec = flux.job.JobspecV1.from_command(["job", str(number)])
    jobspec.environment = {}
    jobids.append(flux.job.submit_async(handle, jobspec, urgency=0))
    if len(jobids) == 200:
        for each in [flux.job.cancel_async(handle, future.get_id()) for future in jobids]:
            each.get()
        jobids = []
for future in jobids:
    flux.job.cancel(handle, future.get_id())
"""


def with_history(broker: Broker, number: int = _JOBS) -> None:
    """Have a number of jobs end."""
    eventually(lambda: " run " in broker.run("uptime").stdout, what="a broker that accepts jobs")
    subprocess.run([sys.executable, "-c", _SUBMIT, broker.uri, str(number)], check=True, timeout=500)


def readers(server: Server) -> list[int]:
    """Return the pids of the server's processes that read a history."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
            command = (path.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == server.pid and b"sidecar.history" in command:
            found.append(int(path.parent.name))
    return found


def stopped_reader(server: Server) -> int:
    """Stop the process that reads the history, before it has read all; return its pid."""
    [pid] = eventually(lambda: readers(server), what="the process that reads the history")
    os.kill(pid, signal.SIGSTOP)
    assert not progress(server)["complete"]
    return pid


def progress(server: Server) -> dict[str, Any]:
    return dict(server.http.get("/v1/service").json()["history"])


def ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def agree(server: Server, broker: Broker) -> None:
    """Compare all jobs, counts and eventlogs with Flux's own."""
    theirs = flux_jobs(broker.uri)
    listed = server.http.get("/v1/jobs", params={"details": "true"}).json()
    assert listed.keys() == {str(jobid) for jobid in theirs}
    for jobid, expected in theirs.items():
        our = listed[str(jobid)]
        assert {name: our.get(name) for name in expected} == expected
    check_metrics(server, theirs)
    some = sorted(theirs)[:: max(1, len(theirs) // 50)]
    logs = flux_eventlogs(broker.uri, some)
    for jobid in some:
        events = server.http.get(f"/v1/jobs/{jobid}/eventlog").json()["events"]
        assert [plain(event) for event in events] == logs[jobid]


def test_what_works_before_the_history_is_complete(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=4)).running()
    with_history(broker)
    running = broker.run("submit", "sleep", "600").stdout.strip()
    server = started(beside(broker, tmp_path)).live()
    reader = stopped_reader(server)
    assert server.run("true")["result"] == "COMPLETED"
    assert server.state(running, "RUN")
    assert server.http.post(f"/v1/jobs/{running}/cancel").status_code == 200
    assert server.ended(running)["result"] == "CANCELED"
    held = server.submit("true", urgency=0)
    assert server.http.post("/v1/jobs/cancel", json={"state": "active"}).json()["cancelled"] == 1
    assert server.ended(held)["result"] == "CANCELED"
    # What depends on the history says so.
    keyed = server.http.post("/v1/jobs/submit", json={"command": "true"}, headers={"Idempotency-Key": "k"})
    assert (keyed.status_code, "history" in keyed.json()["detail"]) == (503, True)
    oldest = min(flux_jobs(broker.uri))
    assert server.http.get(f"/v1/jobs/{oldest}").status_code == 503
    listed = server.http.get("/v1/jobs", params={"limit": 1})
    assert listed.headers["Flux-History"] == f"read={progress(server)['read']}, total={_JOBS}"
    verbose = server.http.get("/readyz?verbose").text
    assert f"of {_JOBS:,} jobs that have ended" in verbose
    page = server.http.get("/jobs", headers={"Accept": "text/html"}).text
    assert "The history is being read" in page
    assert f'flux_sidecar_history_jobs{{jobs="total"}} {_JOBS}.0' in server.http.get("/metrics").text
    os.kill(reader, signal.SIGCONT)
    server.ready()
    assert "Flux-History" not in server.http.get("/v1/jobs", params={"limit": 1}).headers
    assert server.http.get(f"/v1/jobs/{oldest}").json()["result"] == "CANCELED"
    assert server.run("true")["result"] == "COMPLETED"
    assert eventually(lambda: ended(reader), what="the end of the process")
    agree(server, broker)


@pytest.mark.parametrize("stop", ["signal", "request"])
def test_a_stop_before_the_history_is_complete(tmp_path: Path, started: Start, stop: str) -> None:
    broker = started(Broker(tmp_path)).running()
    with_history(broker, 100)
    server = started(beside(broker, tmp_path)).live()
    reader = stopped_reader(server)
    if stop == "signal":
        server.signal(signal.SIGTERM)
    else:
        assert server.stop(mode="drain").status_code == 202
    assert server.wait() == 0
    assert ended(reader)


def test_a_killed_server_leaves_no_process(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path)).running()
    with_history(broker, 100)
    server = started(beside(broker, tmp_path)).live()
    reader = stopped_reader(server)
    server.signal(signal.SIGKILL)
    server.wait()
    os.kill(reader, signal.SIGCONT)
    eventually(lambda: ended(reader), what="the end of the process")


class Load(threading.Thread):
    """Submit jobs one after the other, to any server."""

    def __init__(self, lives: Lives) -> None:
        super().__init__(daemon=True)
        self._lives = lives
        self._over = threading.Event()
        self.accepted = 0

    def run(self) -> None:
        while not self._over.is_set():
            try:
                response = httpx.post(f"{self._lives.url()}/v1/jobs/submit", json={"command": "true"}, timeout=30)
                self.accepted += response.status_code == 200
            except httpx.TransportError:
                time.sleep(0.02)  # as any client does before a retry

    def close(self) -> None:
        self._over.set()
        self.join(60)
        assert not self.is_alive()


@pytest.mark.long
@pytest.mark.parametrize("kept", [True, False])
def test_killed_at_any_moment(tmp_path: Path, started: Start, kept: bool) -> None:
    """The process, the server, or both are killed, while jobs are submitted and run."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choose = random.Random(seed)
    broker = started(Broker(tmp_path, cores=4)).running()
    with_history(broker)
    lives = Lives(broker, tmp_path, started, *(("--store", str(tmp_path / "jobs.sqlite")) if kept else ()))
    load = Load(lives)
    load.start()
    killed = 0
    for _ in range(8):
        lives.server.live()
        eventually(
            lambda: readers(lives.server) or progress(lives.server)["complete"],
            what="the process that reads the history",
        )
        time.sleep(choose.random())  # the moment is what varies
        for pid in readers(lives.server):
            if choose.random() < 0.7:
                os.kill(pid, signal.SIGKILL)
                killed += 1
        if choose.random() < 0.5:
            lives.kill()
            lives.begin()
    load.close()
    server = lives.server.ready()
    print(f"{killed} processes and {lives.number - 1} servers were killed; {load.accepted} jobs were accepted")
    eventually(lambda: server.http.get("/v1/service").json()["active_jobs"] == 0, within=120, what="all jobs ended")
    agree(server, broker)


@pytest.mark.parametrize("trouble", ["reload", "silence", "restart"])
def test_trouble_of_flux_before_the_history_is_complete(tmp_path: Path, started: Start, trouble: str) -> None:
    broker = started(Broker(tmp_path, f"-Sstatedir={tmp_path}")).running()
    with_history(broker, 600)
    server = started(beside(broker, tmp_path, "--lost-timeout", "60")).live()
    reader = stopped_reader(server)
    if trouble == "reload":
        assert broker.run("module", "reload", "-f", "job-manager").returncode == 0
    elif trouble == "silence":
        broker.signal(signal.SIGSTOP)
        os.kill(reader, signal.SIGCONT)
        eventually(lambda: server.http.get("/v1/service").json()["instance"]["connection"] == "lost", what="silence")
        assert not progress(server)["complete"]
        broker.signal(signal.SIGCONT)
    else:
        broker.signal(signal.SIGTERM)
        broker.wait()
        broker = started(Broker(tmp_path, f"-Sstatedir={tmp_path}")).running()
    if trouble != "silence":
        eventually(lambda: ended(reader), what="the end of the process of the old connection")
    server.ready()
    if trouble != "reload":  # Flux's scheduler does not find the new job manager
        assert server.run("true")["result"] == "COMPLETED"
    else:  # nor does job-list, which ends with the old one
        broker.run("module", "remove", "-f", "job-list")
        assert broker.run("module", "load", "job-list").returncode == 0
    agree(server, broker)
    assert server.stop().status_code == 202
    assert server.wait() == 0
