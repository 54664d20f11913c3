"""Scaling of a cluster with real brokers: jobs end first, and nodes are drained and undrained."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.flux.operator import Lead, start_follower
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import Process, Server, beside, eventually

Start = Callable[[Any], Any]

PATCH = "patch miniclusters/scale.flux-framework.org"


@pytest.fixture
def brokers(tmp_path: Path, started: Start) -> tuple[Lead, Process]:
    return started(Lead(tmp_path)), started(start_follower(tmp_path))


@pytest.fixture
def server(tmp_path: Path, api: ClusterAPI, brokers: tuple[Lead, Process], started: Start) -> Server:
    found: Server = started(beside(brokers[0], tmp_path, *api.options, "--kubernetes-job", "mc")).ready()
    eventually(lambda: states(found) == ["free", "free"], what="two nodes")
    return found


def states(server: Server) -> list[str]:
    return [node["state"] for node in nodes(server)]


def nodes(server: Server) -> list[dict[str, Any]]:
    return list(server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"])


def scaling(server: Server) -> dict[str, Any]:
    return dict(server.http.get("/v1/cluster").json()["scaling"])


def scale(server: Server, size: int, **more: Any) -> Any:
    answer = server.http.post("/v1/cluster/scale", json={"size": size, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()


def both_busy(server: Server) -> int:
    """Start a job on both nodes."""
    job = server.submit("sleep 600", num_nodes=2, num_tasks=2)
    server.state(job, "RUN")
    return job


def test_scale_down_and_up(
    server: Server, api: ClusterAPI, brokers: tuple[Lead, Process], tmp_path: Path, started: Start
) -> None:
    pods = server.http.get("/v1/cluster").json()["pods"]
    assert [(pod["hostname"], pod["rank"], pod["broker"]) for pod in pods] == [("mc-0", 0, "up"), ("mc-1", 1, "up")]
    job = both_busy(server)
    begun = scale(server, 1)
    assert (begun["state"], begun["was"], begun["size"], begun["ranks"]) == ("draining", 2, 1, "1")
    eventually(lambda: scaling(server)["busy"] == "1", what="the running job")
    assert nodes(server)[1]["reason"] == "flux-sidecar: the cluster is to have 1 nodes"
    assert "GET /v1/cluster shows" in problem(server.http.post("/v1/cluster/scale", json={"size": 2}), 409)["detail"]
    assert PATCH not in api.requests, "the job still runs"
    server.http.post(f"/v1/jobs/{job}/cancel")
    eventually(lambda: api.job["spec"]["parallelism"] == 1, what="the change of size")
    assert server.ended(job)["result"] == "CANCELED"
    # The pod is being deleted: its broker receives SIGTERM, and exits.
    found = server.http.get("/v1/cluster").json()
    assert [pod["terminating"] for pod in found["pods"]] == [False, True]
    assert found["scaling"]["state"] == "settling"
    assert nodes(server)[1]["reason"], "no job may start while the broker exits"
    brokers[1].signal(signal.SIGTERM)
    brokers[1].wait(30)
    api.remove(1)
    eventually(lambda: scaling(server)["state"] == "done", what="the end of the scale-down")
    assert [(node["state"], node["reason"]) for node in nodes(server)] == [("free", ""), ("down", "")]
    assert server.http.get("/v1/cluster").json()["pods"][0]["broker"] == "up"
    scale(server, 2)
    eventually(lambda: scaling(server)["state"] == "done", what="the end of the scale-up")
    assert api.job["spec"] | {"completions": 2, "parallelism": 2} == api.job["spec"]
    started(start_follower(tmp_path))
    eventually(lambda: states(server) == ["free", "free"], what="the returned node")
    assert server.run("true", num_nodes=2, num_tasks=2)["result"] == "COMPLETED"


def test_scale_down_times_out(server: Server, api: ClusterAPI) -> None:
    both_busy(server)
    scale(server, 1, timeout=1)
    assert "drained" in states(server)
    eventually(lambda: scaling(server)["state"] == "failed", what="the deadline")
    assert scaling(server)["detail"] == (
        "Jobs still ran on ranks 1 after 1 s: the size is unchanged, and the nodes are undrained."
    )
    eventually(lambda: states(server) == ["allocated", "allocated"], what="the undrain")
    assert PATCH not in api.requests


def test_scale_down_with_a_timeout_of_zero(server: Server, api: ClusterAPI) -> None:
    both_busy(server)
    detail = problem(server.http.post("/v1/cluster/scale", json={"size": 1, "timeout": 0}), 409)["detail"]
    assert "Jobs run on ranks 1" in detail
    assert states(server) == ["allocated", "allocated"]
    assert PATCH not in api.requests


def test_scale_down_that_kubernetes_refuses(server: Server, api: ClusterAPI) -> None:
    api.role.remove(PATCH)
    scale(server, 1)
    eventually(lambda: scaling(server)["state"] == "failed", what="the refusal")
    assert 'resources: ["miniclusters/scale"], verbs: ["patch"]' in scaling(server)["detail"]
    eventually(lambda: states(server) == ["free", "free"], what="the undrain")


def test_node_drained_by_another_user_stays_drained(server: Server, api: ClusterAPI) -> None:
    server.http.post("/v1/nodes/1/drain", json={"reason": "a fan is loud"})
    scale(server, 1)
    eventually(lambda: api.job["spec"]["parallelism"] == 1, what="the change of size")
    scale(server, 2)
    eventually(lambda: scaling(server)["state"] == "done")
    assert nodes(server)[1]["reason"] == "a fan is loud"


def test_scale_up_during_a_scale_down(server: Server, api: ClusterAPI) -> None:
    """The deleted pod is recreated: its node is undrained when the old broker has exited, not before."""
    scale(server, 1)
    eventually(lambda: scaling(server)["state"] == "settling", what="the change of size")
    scale(server, 2)
    assert scaling(server)["state"] == "settling"
    assert nodes(server)[1]["reason"]
    api.pods[1] = api.pod(1)
    eventually(lambda: scaling(server)["state"] == "done", what="the end of the scale-up")
    assert states(server) == ["free", "free"]


def test_server_ends_during_a_scale_down(
    api: ClusterAPI, brokers: tuple[Lead, Process], tmp_path: Path, started: Start
) -> None:
    """After SIGTERM no node stays drained; after SIGKILL the next change of size undrains it."""
    options = (*api.options, "--kubernetes-job", "mc", "--no-stop-on-signal")
    server = started(beside(brokers[0], tmp_path, *options)).ready()
    eventually(lambda: states(server) == ["free", "free"], what="two nodes")
    both_busy(server)
    for number, left in ((signal.SIGTERM, ""), (signal.SIGKILL, "flux-sidecar: the cluster is to have 1 nodes")):
        scale(server, 1)
        eventually(lambda: scaling(server)["busy"] == "1", what="the job is seen")  # noqa: B023
        server.signal(number)
        server.wait(10)
        server = started(beside(brokers[0], tmp_path, *options)).ready()
        assert nodes(server)[1]["reason"] == left
    scale(server, 2)
    eventually(lambda: scaling(server)["state"] == "done", what="the end")
    assert states(server) == ["allocated", "allocated"]
