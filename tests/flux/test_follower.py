"""The server in a follower's pod: it exits with 0 when its broker has ended, neither earlier nor later."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.flux.operator import Lead, follower_socket, start_follower
from tests.support import harness
from tests.support.harness import Process, beside, eventually

Start = Callable[[Any], Any]

#: Maximum memory of a follower, in kilobytes.
MOST = 12 * 1024


def sidecar(directory: Path, *options: str, before: Sequence[str] = ()) -> Process:
    """Return the server of a follower's pod, which differs from the lead's only in a variable."""
    uri = f"local://{follower_socket(directory)}"
    argv = [*before, harness.SIDECAR, "serve", "--host", "0.0.0.0", "--uri", uri, *options]
    return Process(argv, directory, JOB_COMPLETION_INDEX="1")


def waits(process: Process) -> bool:
    """Return whether the server is connected to a broker."""
    assert process.popen.poll() is None, process.text()
    return _connections(process) == 1


def _connections(process: Process) -> int:
    found = [os.readlink(entry) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]
    return sum(target.startswith("socket:") for target in found)


def memory(process: Process) -> int:
    """Return the resident memory in kilobytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])  # type: ignore[index]


def runs(lead: Lead) -> bool:
    return "quorum->run" in lead.text()


def listening(pid: int) -> list[str]:
    inodes = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes]


@pytest.fixture
def waiting(tmp_path: Path, started: Start) -> Process:
    """A server that was started before its broker."""
    process: Process = started(sidecar(tmp_path, "--follower-wait", "20"))
    eventually(lambda: "No such file or directory" in process.text(), what="wait for the socket")
    return process


@pytest.fixture
def brokers(tmp_path: Path, waiting: Process, started: Start) -> tuple[Lead, Process]:
    lead, follower = started(Lead(tmp_path)), started(start_follower(tmp_path))
    eventually(lambda: runs(lead) and waits(waiting), what="two brokers")
    return lead, follower


def test_end_of_the_cluster(brokers: tuple[Lead, Process], waiting: Process, tmp_path: Path, started: Start) -> None:
    lead, follower = brokers
    assert memory(waiting) <= MOST
    assert listening(waiting.pid) == []
    server = started(beside(lead, tmp_path)).ready()
    job = server.run(["sh", "-c", "sleep 0.2"], num_nodes=2, num_tasks=2)
    assert job["result"] == "COMPLETED"
    assert waits(waiting)
    server.stop()
    assert (waiting.wait(20), follower.wait(20), lead.wait(20), server.wait(20)) == (0, 0, 0, 0)
    assert waiting.text().endswith("the broker and the lead have ended: exiting\n")


def test_restarted_broker(brokers: tuple[Lead, Process], waiting: Process, tmp_path: Path, started: Start) -> None:
    """The operator restarts a follower's broker in a loop."""
    lead, follower = brokers
    follower.signal(signal.SIGKILL)
    eventually(lambda: "waiting 20 s for another one" in waiting.text(), what="the crash")
    again = started(start_follower(tmp_path))
    eventually(lambda: waits(waiting), what="the next connection")
    eventually(lambda: "quorum->run" in again.text(), what="RUN")
    assert lead.run("shutdown", "--background", lead.uri).returncode == 0
    assert (waiting.wait(20), again.wait(20), lead.wait(20)) == (0, 0, 0)
    assert waiting.text().endswith("the broker and the lead have ended: exiting\n")


def test_broker_that_exits_for_good(tmp_path: Path, started: Start) -> None:
    process = started(sidecar(tmp_path, "--follower-wait=1"))
    lead, follower = started(Lead(tmp_path)), started(start_follower(tmp_path))
    eventually(lambda: runs(lead) and waits(process), what="two brokers")
    follower.signal(signal.SIGKILL)
    assert process.wait(10) == 0
    assert "no other broker has started: exiting" in process.text()
    assert lead.run("uptime").returncode == 0


def test_crash_of_the_lead(tmp_path: Path, started: Start) -> None:
    """The follower's broker exits with 1; the operator restarts it, so the pod must continue."""
    process = started(sidecar(tmp_path, "--follower-wait", "20"))
    impatient = '[heartbeat]\nperiod = "0.5s"\ntimeout = "2s"\n'
    lead, follower = started(Lead(tmp_path, impatient)), started(start_follower(tmp_path, impatient))
    eventually(lambda: runs(lead) and waits(process), what="two brokers")
    eventually(lambda: "quorum->run" in follower.text(), what="RUN")
    lead.signal(signal.SIGKILL)
    assert follower.wait(30) == 1
    eventually(lambda: "waiting 20 s for another one" in process.text(), what="the end of the broker")
    assert not follower_socket(tmp_path).exists()
    lead, again = started(Lead(tmp_path)), started(start_follower(tmp_path))
    eventually(lambda: runs(lead) and waits(process), what="two brokers again")
    eventually(lambda: "quorum->run" in again.text(), what="RUN")
    assert lead.run("shutdown", "--background", lead.uri).returncode == 0
    assert (process.wait(20), again.wait(20), lead.wait(20)) == (0, 0, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(brokers: tuple[Lead, Process], waiting: Process, number: signal.Signals) -> None:
    waiting.signal(number)
    assert waiting.wait(2) == 0
    assert brokers[0].run("uptime").returncode == 0


def test_signal_before_the_broker_starts(waiting: Process) -> None:
    waiting.signal(signal.SIGTERM)
    assert waiting.wait(2) == 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_broker_of_another_user(tmp_path: Path, started: Start) -> None:
    """Guests must not send requests to the lead: the removed socket of the broker is sufficient."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == os.getuid() and directory != Path("/tmp"):
            directory.chmod(0o755)
    before = ["setpriv", "--reuid", "65534", "--clear-groups"]
    process = started(sidecar(tmp_path, "--follower-wait", "20", before=before))
    lead, follower = started(Lead(tmp_path)), started(start_follower(tmp_path))
    eventually(lambda: runs(lead) and waits(process), what="two brokers")
    eventually(lambda: "quorum->run" in follower.text(), what="RUN")
    assert lead.run("shutdown", "--background", lead.uri).returncode == 0
    assert (process.wait(20), follower.wait(20), lead.wait(20)) == (0, 0, 0)


def test_lead(tmp_path: Path, started: Start) -> None:
    """Index 0 is the lead: it listens before its broker has started, is alive, and is not ready."""
    lead_socket = tmp_path / "config/run/mc-0/local"
    argv = [harness.SIDECAR, "serve", "--port", "0", "--uri", f"local://{lead_socket}"]
    server = started(harness.Server(argv, tmp_path, JOB_COMPLETION_INDEX="0"))
    assert server.http.get("/livez").status_code == 200
    assert "connecting" in server.http.get("/readyz").json()["detail"]
    lead, follower = started(Lead(tmp_path)), started(start_follower(tmp_path))
    server.ready()
    eventually(lambda: runs(lead), what="RUN")
    assert lead.run("shutdown", "--background", lead.uri).returncode == 0
    assert (server.wait(20), lead.wait(20), follower.wait(20)) == (0, 0, 0)
