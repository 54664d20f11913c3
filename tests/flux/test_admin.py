"""Several queues and nodes, which only Flux has."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.support.harness import Broker, Server, beside, eventually, flux_start
from tests.support.metrics import scrape

Start = Callable[[Any], Any]


def _queues(server: Server) -> dict[str, dict[str, Any]]:
    return {queue["name"]: queue for queue in server.http.get("/v1/queues").json()["queues"]}


def _config(directory: Path, names: Sequence[str], default: str) -> str:
    """Write a configuration with queues and return the option of `flux start` that reads it."""
    path = directory / "queues"
    path.mkdir()
    queues = "".join(f"[queues.{name}]\n" for name in names)
    (path / "queues.toml").write_text(f'{queues}[policy.jobspec.defaults.system]\nqueue = "{default}"\n')
    return f"--config-path={path}"


class TestNamedQueues:
    @pytest.fixture
    def server(self, tmp_path: Path, started: Start) -> Server:
        config = _config(tmp_path, ["batch", "debug"], "batch")
        server: Server = started(flux_start(tmp_path, broker=[config])).ready()
        return server

    def test_start_and_stop_one_of_two(self, server: Server) -> None:
        found = _queues(server)
        assert {name: queue["default"] for name, queue in found.items()} == {"batch": True, "debug": False}
        # Flux starts no named queue by itself.
        assert not any(queue["started"] for queue in found.values())
        batch, debug = server.submit("true"), server.submit("true", queue="debug")
        for job in (batch, debug):
            server.state(job, "SCHED")
        eventually(lambda: [queue["counts"]["sched"] for queue in _queues(server).values()] == [1, 1])
        assert server.http.post("/v1/queues/debug/start").json()["started"]
        assert server.ended(debug)["result"] == "COMPLETED"
        assert server.job(batch)["state"] == "SCHED"
        assert [queue["started"] for queue in _queues(server).values()] == [False, True]
        response = server.http.post("/v1/queues/debug/stop", json={"reason": "debugged"})
        assert (response.json()["name"], response.json()["started_reason"]) == ("debug", "debugged")
        server.http.post("/v1/queues/batch/start")
        assert server.ended(batch)["result"] == "COMPLETED"

    def test_no_queue_is_named_default(self, server: Server) -> None:
        detail = problem(server.http.post("/v1/queues/default/start"), 404)["detail"]
        assert detail == "There is no queue 'default'; the queues are: batch, debug."

    def test_changes_by_other_tools_are_visible(self, server: Server) -> None:
        uri = server.http.get("/v1/service").json()["instance"]["uri"]
        subprocess.run(["flux", "queue", "start", "debug"], env={**os.environ, "FLUX_URI": uri}, check=True, timeout=60)
        eventually(lambda: _queues(server)["debug"]["started"], what="the start")


def test_queue_named_default(tmp_path: Path, started: Start) -> None:
    config = _config(tmp_path, ["default", "other"], "other")
    server = started(flux_start(tmp_path, broker=[config])).ready()
    assert server.http.post("/v1/queues/default/start").json()["default"] is False
    assert [queue["started"] for queue in _queues(server).values()] == [True, False]


def test_lost_node_is_down(tmp_path: Path, started: Start) -> None:
    """Without configured resources the scheduler forgets it; it stays in every list, and gets no jobs."""
    broker = ["--test-size=3", "--test-exit-mode=leader", f"--test-rundir={tmp_path}"]
    server = started(flux_start(tmp_path, broker=broker)).ready()
    whole = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
    assert server.run("true", num_nodes=3, num_tasks=3)["nnodes"] == 3
    environment = {**os.environ, "FLUX_URI": f"local://{tmp_path}/local-2"}
    lost = subprocess.run(
        ["flux", "getattr", "broker.pid"], env=environment, check=True, text=True, capture_output=True
    )
    os.kill(int(lost.stdout), signal.SIGKILL)
    subprocess.run(
        ["flux", "overlay", "disconnect", "2"],
        env={**os.environ, "FLUX_URI": f"local://{tmp_path}/local-0"},
        timeout=60,
    )

    def states() -> list[str]:
        nodes = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
        assert [(node["rank"], node["name"], node["cores"]) for node in nodes] == [
            (node["rank"], node["name"], node["cores"]) for node in whole
        ]
        return [node["state"] for node in nodes]

    eventually(lambda: states() == ["free", "free", "down"], what="the loss of a node")
    assert eventually(lambda: scrape(server.http).by("state", "flux_nodes")["down"] == 1, what="the metric")
    page = server.http.get("/nodes").text
    assert page.count('data-state="down"') >= 1
    wanted = {"command": "true", "num_nodes": 3, "num_tasks": 3}
    for more in ({}, {"dry_run": True}):
        assert problem(server.http.post("/v1/jobs/submit", json={**wanted, **more}), 400)
    assert server.run("true", num_nodes=2, num_tasks=2)["nnodes"] == 2


def test_one_of_two_nodes(tmp_path: Path, started: Start) -> None:
    """Two brokers on one host: a rank selects one of them, the hostname both."""
    server = started(flux_start(tmp_path, broker=["--test-size=2"])).ready()

    def states() -> list[str]:
        nodes = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"]
        return [node["state"] for node in nodes]

    eventually(lambda: states() == ["free", "free"], what="two nodes")
    response = server.http.post("/v1/nodes/1/drain", json={"reason": "one"})
    assert [(node["rank"], node["state"]) for node in response.json()["nodes"]] == [(1, "drained")]
    assert states() == ["free", "drained"]
    # A job starts on the other node, and one that needs both waits.
    assert server.run("true")["ranks"] == "0"
    both = server.submit("true", num_nodes=2, num_tasks=2)
    server.state(both, "SCHED")
    name = server.http.get("/v1/nodes").json()["nodes"][0]
    detail = problem(server.http.post(f"/v1/nodes/{name}/drain", json={"reason": "all"}), 409)["detail"]
    assert detail == "The node cannot be drained: rank 1 already drained."
    assert server.http.post("/v1/nodes/1/undrain").status_code == 200
    assert server.ended(both)["nnodes"] == 2
    response = server.http.post(f"/v1/nodes/{name}/drain", json={"reason": "all"})
    assert [node["reason"] for node in response.json()["nodes"]] == ["all", "all"]
    assert states() == ["drained", "drained"]
    response = server.http.post(f"/v1/nodes/{name}/undrain")
    assert [node["rank"] for node in response.json()["nodes"]] == [0, 1]
    assert "drained" not in states()


def test_commands_while_the_broker_does_not_respond(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path, "--rpc-timeout", "1")).ready()
    job = server.submit("sleep 600")
    server.state(job, "RUN")
    known = server.http.get("/v1/queues").json()
    broker.signal(signal.SIGSTOP)
    eventually(lambda: server.http.get("/v1/service").json()["instance"]["connection"] == "lost")

    def refused(path: str, **body: Any) -> httpx.Response:
        response: httpx.Response = server.http.post(path, json=body)
        assert int(response.headers["Retry-After"]) >= 1
        problem(response, 503)
        return response

    refused(f"/v1/jobs/{job}/signal", signal="USR1")
    refused(f"/v1/jobs/{job}/urgency", urgency=3)
    for path in ("queues/default/start", "queues/default/stop", "nodes/0/drain", "nodes/0/undrain"):
        refused(f"/v1/{path}")
    last = server.http.get("/v1/queues").json()
    assert [queue["name"] for queue in last["queues"]] == ["default"]
    assert last["updated"] >= known["updated"]
    broker.signal(signal.SIGCONT)
    server.ready()
    assert server.http.post(f"/v1/jobs/{job}/signal", json={"signal": "KILL"}).status_code == 200
    assert server.ended(job)["returncode"] == 128 + signal.SIGKILL
