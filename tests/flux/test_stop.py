"""Stops, for every way to start a broker: exit codes, and what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from tests.flux.operator import Lead, flux_start_as_operator, start_follower
from tests.support import harness
from tests.support.harness import Broker, Server, beside, eventually, flux_start

Start = Callable[[Any], Any]

TERM_IGNORING = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"]


def _busy(server: Server) -> None:
    """Two running jobs, one that ignores SIGTERM, and fifty pending ones, on four cores."""
    running = [server.submit("sleep 600", cores_per_task=1) for _ in range(2)]
    deaf = server.submit(TERM_IGNORING, cores_per_task=2)
    pending = [server.submit("sleep 600") for _ in range(50)]
    for job in (*running, deaf):
        server.state(job, "RUN")
    eventually(lambda: server.output(deaf) == ["deaf\n"])
    server.state(pending[-1], "SCHED")


class TestInitialProgram:
    def test_with_jobs_running_and_pending(self, tmp_path: Path, started: Start) -> None:
        server = started(flux_start(tmp_path, broker=harness.cores(tmp_path, 4))).ready()
        _busy(server)
        answer = server.stop()
        assert answer.status_code == 202
        assert answer.json()["state"] == "stopping"
        assert answer.json()["active_jobs"] == 53
        assert server.wait(60) == 0
        assert not server.leftovers()

    def test_below_a_shell(self, tmp_path: Path, started: Start) -> None:
        argv = ["flux", "start", "sh", "-c", f"echo prepare; {harness.SIDECAR} serve --port 0; exit $?"]
        server = started(Server(argv, tmp_path)).ready()
        assert server.stop().status_code == 202
        assert server.wait() == 0

    def test_drain_lets_jobs_finish(self, tmp_path: Path, started: Start) -> None:
        store = tmp_path / "history.sqlite"
        server = started(flux_start(tmp_path, "--store", str(store))).ready()
        jobs = [server.submit("sleep 0.3") for _ in range(20)]
        answer = server.stop(mode="drain", reason="end of the day")
        assert (answer.status_code, answer.json()["state"]) == (202, "draining")
        service = server.http.get("/v1/service").json()
        assert (service["state"], service["mode"], service["reason"]) == ("draining", "drain", "end of the day")
        assert service["active_jobs"] > 0
        refused = server.http.post("/v1/jobs/submit", json={"command": "true"})
        assert refused.status_code == 409
        assert "draining" in refused.json()["detail"]
        assert server.http.get("/readyz").status_code == 503
        assert server.wait(60) == 0
        # The history outlives the instance: another server reads it without an instance.
        reader = started(harness.Server(
            [harness.SIDECAR, "serve", "--port", "0", "--uri", f"local://{tmp_path}/none", "--store", str(store)],
            tmp_path,
        ))  # fmt: skip
        assert [reader.job(job)["result"] for job in jobs] == ["COMPLETED"] * 20

    def test_drain_becomes_now_at_its_deadline(self, tmp_path: Path, started: Start) -> None:
        server = started(flux_start(tmp_path)).ready()
        server.submit("sleep 600")
        assert server.stop(mode="drain", timeout=1).status_code == 202
        assert server.http.get("/v1/service").json()["deadline"] == pytest.approx(time.time() + 1, abs=1)
        assert server.wait(20) == 0

    def test_now_cuts_a_drain_short(self, tmp_path: Path, started: Start) -> None:
        server = started(flux_start(tmp_path)).ready()
        held = server.submit("sleep 600", urgency=0)
        server.state(held, "SCHED")
        assert server.stop(mode="drain").json()["state"] == "draining"
        assert server.stop(mode="drain").json()["state"] == "draining"
        eventually(lambda: server.http.get("/v1/service").json()["held_jobs"] == 1)
        answer = server.stop(mode="now")
        assert (answer.status_code, answer.json()["mode"]) == (202, "now")
        assert server.wait(20) == 0

    def test_second_stop_gets_the_same_response(self, tmp_path: Path, started: Start) -> None:
        server = started(flux_start(tmp_path)).ready()
        first, second = server.stop(), server.stop()
        assert (first.status_code, second.status_code) == (202, 202)
        assert first.json() == second.json()
        assert server.wait() == 0

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_signals(self, tmp_path: Path, started: Start, number: signal.Signals) -> None:
        server = started(flux_start(tmp_path)).ready()
        server.state(server.submit("sleep 600"), "RUN")
        begin = time.monotonic()
        os.kill(server.child("flux-sidecar serve"), number)
        assert server.wait(20) == 0
        assert time.monotonic() - begin < 15
        assert not server.leftovers()

    def test_sighup_from_flux_shutdown(self, tmp_path: Path, started: Start) -> None:
        """Another user calls `flux shutdown`: the server exits at once; the exit code is that of flux start."""
        server = started(flux_start(tmp_path)).ready()
        uri = server.http.get("/v1/service").json()["instance"]["uri"]
        subprocess.run(["flux", "shutdown", "--background", uri], check=True, timeout=60)
        begin = time.monotonic()
        assert server.wait(20) in (1, 129)
        assert time.monotonic() - begin < 8
        assert not server.leftovers()

    def test_broker_killed(self, tmp_path: Path, started: Start) -> None:
        server = started(flux_start(tmp_path)).ready()
        server.submit("true")
        os.kill(server.pid, signal.SIGKILL)  # `flux start` has become the broker
        begin = time.monotonic()
        server.wait()
        eventually(lambda: not server.leftovers(), within=5)
        assert time.monotonic() - begin < 5

    def test_responses_in_progress_are_completed(self, tmp_path: Path, started: Start) -> None:
        server = started(flux_start(tmp_path)).ready()
        for _ in range(100):
            server.submit("true")
        answers: list[int] = []

        def read() -> None:
            answers.append(len(server.http.get("/v1/jobs", params={"details": "true"}).json()))

        thread = threading.Thread(target=read)
        thread.start()
        server.stop()
        thread.join()
        assert answers == [100]
        assert server.wait() == 0


class TestBesideABroker:
    @pytest.fixture
    def broker(self, tmp_path: Path, started: Start) -> Broker:
        return cast(Broker, started(Broker(tmp_path, cores=4)))

    def test_with_jobs_running_and_pending(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path)).ready()
        _busy(server)
        assert server.stop().status_code == 202
        seen = set()

        def exited() -> bool:
            try:
                seen.add(server.http.get("/v1/service").json()["instance"]["broker_state"])
            except httpx.TransportError:
                return True
            return server.popen.poll() is not None

        eventually(exited, what="the end of the server")
        assert server.wait(60) == 0
        assert broker.wait(60) == 0
        assert "cleanup" in seen, "the progress of the stop is served until the broker has exited"
        assert not server.leftovers()
        assert not broker.leftovers()

    def test_drain(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        store, flag = ("--store", str(tmp_path / "kept.sqlite")), tmp_path / "flag"
        server = started(beside(broker, tmp_path, *store)).ready()
        waiting = server.submit(["sh", "-c", f"while ! test -e {flag}; do sleep 0.1; done"])
        jobs = [waiting, *(server.submit("sleep 0.2") for _ in range(19))]
        server.stop(mode="drain")
        eventually(lambda: "draining" in broker.run("submit", "true").stderr, what="refusal of flux submit")
        flag.touch()
        assert server.wait(60) == 0
        assert broker.wait(60) == 0
        reader = started(beside(broker, tmp_path, *store))
        assert {reader.job(job)["result"] for job in jobs} == {"COMPLETED"}

    def test_stop_before_the_broker_runs(self, tmp_path: Path, started: Start) -> None:
        """The quorum waits for a second broker: a stop is kept until RUN, and then ends both with 0."""
        lead = started(Lead(tmp_path))
        server = started(beside(lead, tmp_path))

        def broker_state() -> str:
            return str(server.http.get("/v1/service").json()["instance"]["broker_state"])

        eventually(lambda: broker_state() == "quorum", what="quorum")
        answer = server.stop()
        assert (answer.status_code, answer.json()["state"]) == (202, "waiting")
        follower = started(start_follower(tmp_path))
        assert server.wait(60) == 0
        assert (lead.wait(60), follower.wait(60)) == (0, 0)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_signals_stop_the_instance(
        self, broker: Broker, tmp_path: Path, started: Start, number: signal.Signals
    ) -> None:
        server = started(beside(broker, tmp_path)).ready()
        server.signal(number)
        assert server.wait(20) == 0
        assert broker.wait(20) == 0

    def test_no_stop_on_signal(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path, "--no-stop-on-signal")).ready()
        server.signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert broker.run("uptime").returncode == 0

    def test_broker_killed(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path)).ready()
        begin = time.monotonic()
        broker.signal(signal.SIGKILL)
        assert server.wait(10) == 0
        assert time.monotonic() - begin < 5
        assert not server.leftovers()

    def test_broker_stopped_by_another_user(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path)).ready()
        assert broker.run("shutdown", "--background", broker.uri).returncode == 0
        assert broker.wait(20) == 0
        assert server.wait(5) == 0


class TestBesideAnotherInitialProgram:
    @pytest.fixture
    def broker(self, tmp_path: Path, started: Start) -> Broker:
        return cast(Broker, started(Broker(tmp_path, program=["sleep", "600"])))

    def test_refuses(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path)).ready()
        answer = server.stop()
        assert answer.status_code == 409
        assert "Another initial program runs" in answer.json()["detail"]
        assert '"force": true' in answer.json()["detail"]
        assert server.http.get("/v1/service").json()["state"] == "running"
        assert broker.run("uptime").returncode == 0

    def test_force(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path)).ready()
        assert server.stop(force=True).status_code == 202
        assert broker.wait(20) == 129
        assert server.wait(10) == 0

    def test_a_signal_ends_the_server_alone(self, broker: Broker, tmp_path: Path, started: Start) -> None:
        server = started(beside(broker, tmp_path)).ready()
        server.signal(signal.SIGTERM)
        assert server.wait(5) == 0
        assert broker.run("uptime").returncode == 0


class TestAsTheOperatorDoes:
    def test_launcher_mode(self, tmp_path: Path, started: Start) -> None:
        """`launcher: true`: the server is the initial program of rank 0."""
        argv = flux_start_as_operator(tmp_path, "mc-0", harness.SIDECAR, "serve", "--port", "0")
        lead = started(Server(argv, tmp_path))
        follower = started(start_follower(tmp_path))
        self._two_nodes_run_a_job(lead.ready())
        lead.submit("sleep 600")
        assert lead.stop().status_code == 202
        assert (lead.wait(60), follower.wait(60)) == (0, 0)
        assert "rc2-success" in lead.text()
        assert "rc3-success" in lead.text()

    def test_sidecar_mode(self, tmp_path: Path, started: Start) -> None:
        """`interactive: true`: a broker without initial program, and the server in its own container."""
        lead, follower = started(Lead(tmp_path)), started(start_follower(tmp_path))
        server = started(beside(lead, tmp_path)).ready()
        eventually(lambda: len(server.http.get("/v1/nodes").json()["nodes"]) == 2)
        self._two_nodes_run_a_job(server)
        server.submit("sleep 600")
        assert server.stop().status_code == 202
        assert server.wait(60) == 0
        assert (lead.wait(60), follower.wait(60)) == (0, 0)
        assert "shutdown: run->cleanup" in lead.text()

    def _two_nodes_run_a_job(self, server: Server) -> None:
        eventually(lambda: server.http.get("/v1/nodes").json()["nodes"] == ["mc-0", "mc-1"])
        job = server.run(["sh", "-c", "echo $FLUX_TASK_RANK"], num_nodes=2)
        assert (job["result"], job["nnodes"], job["nodelist"], job["ranks"]) == ("COMPLETED", 2, "mc-[0-1]", "[0-1]")
        assert sorted(server.output(job["id"])) == ["0\n", "1\n"]
