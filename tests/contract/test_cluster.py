"""The Kubernetes cluster of the instance, for both engines, with a fake API server.

Scaling with real brokers is in tests/flux.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.support.access import TokenFile, audit
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import Server, eventually
from tests.support.kubernetes_api import BUSY, CLOSE, ENDLESS, FAILING, GARBAGE, HANG


@pytest.fixture
def api(api: ClusterAPI) -> ClusterAPI:
    """The API server of a cluster in which this machine is the lead pod."""
    api.pods[0] = api.pod(0, socket.gethostname())
    return api


def cluster(server: Server) -> dict[str, Any]:
    answer = server.http.get("/v1/cluster")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_outside_kubernetes(own_server: Callable[..., Server], tmp_path: Path) -> None:
    server = own_server("--kubernetes-credentials", str(tmp_path / "none"))
    assert problem(server.http.get("/v1/cluster"), 404)["detail"] == "This server does not run in Kubernetes."
    problem(server.http.post("/v1/cluster/scale", json={"size": 2}), 404)


def test_pod_without_a_service_account(own_server: Callable[..., Server], tmp_path: Path) -> None:
    server = own_server(
        "--kubernetes-credentials", str(tmp_path / "none"), KUBERNETES_SERVICE_HOST="10.96.0.1"
    )  # fmt: skip
    assert "automountServiceAccountToken" in problem(server.http.get("/v1/cluster"), 404)["detail"]


def test_cluster_status(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    """The Job is found by the host name of the server's pod."""
    server = own_server(*api.options)
    before = time.time()
    found = cluster(server)
    assert abs(found["updated"] - before) < 10
    assert found["namespace"] == "flux"
    assert found["minicluster"] == {
        "name": "mc", "namespace": "flux", "size": 2, "min_size": 1, "max_size": 3,
        "status": {
            "size": 0, "maximum_size": 3,
            "conditions": [{"type": "JobReady", "status": "True", "reason": "JobReady", "message": ""}],
        },
    }  # fmt: skip
    assert found["job"] == {
        "name": "mc", "completions": 2, "parallelism": 2, "active": 2, "ready": 0, "succeeded": 0, "failed": 0,
        "conditions": [],
    }  # fmt: skip
    first, second = found["pods"]
    assert first == {
        "name": api.pods[0]["metadata"]["name"], "index": 0, "hostname": socket.gethostname(), "phase": "Running",
        "ready": True, "terminating": False, "node": "node0", "ip": "10.0.0.1", "restarts": 1, "rank": 0, "broker": "up",
    }  # fmt: skip
    assert (second["index"], second["restarts"], second["rank"], second["broker"]) == (1, 2, None, None)
    assert found["scaling"] is None


def test_too_large_pod_list_is_rejected(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    """A response is read up to a limit, which is above the size of the largest Jobs."""
    server = own_server(*api.options)
    api.pods[1]["metadata"]["annotations"]["large"] = " " * (10 << 20)
    assert len(cluster(server)["pods"]) == 2
    api.trouble["list pods"] = ENDLESS

    def refused() -> bool:  # a response is cached for a second
        answer = server.http.get("/v1/cluster")
        return answer.status_code == 503 and "with more than 33554432 bytes" in answer.text

    eventually(refused, what="a response that is too large")


def test_ended_pod_has_no_broker(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    old = api.pod(0, socket.gethostname())
    old["status"] = {"phase": "Failed"}
    old["metadata"]["creationTimestamp"] = "2020-01-01T00:00:00Z"
    api.pods.append(old)
    found = cluster(own_server(*api.options))["pods"]
    assert [(pod["phase"], pod["broker"], pod["ready"]) for pod in found] == [
        ("Failed", None, False), ("Running", "up", True), ("Running", None, True),
    ]  # fmt: skip


def test_plain_job(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    api.plain()
    api.role -= {"get miniclusters.flux-framework.org", "patch miniclusters/scale.flux-framework.org"}
    server = own_server(*api.options, "--kubernetes-job", "mc")
    assert cluster(server)["minicluster"] is None
    detail = problem(server.http.post("/v1/cluster/scale", json={"size": 1}), 409)["detail"]
    assert "a plain Job cannot be scaled" in detail


def test_pod_without_a_job(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    del api.pods[0]
    detail = problem(own_server(*api.options).http.get("/v1/cluster"), 404)["detail"]
    assert "name the Job with --kubernetes-job" in detail


_RULES = {
    "list pods": '{apiGroups: [""], resources: ["pods"], verbs: ["list"]}',
    "get jobs.batch": '{apiGroups: ["batch"], resources: ["jobs"], verbs: ["get"]}',
    "get miniclusters.flux-framework.org": '{apiGroups: ["flux-framework.org"], resources: ["miniclusters"], verbs: ["get"]}',
}


def test_missing_rbac_rule_is_named(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    api.role.clear()
    server = own_server(*api.options)
    for what, rule in _RULES.items():
        assert rule in problem(server.http.get("/v1/cluster"), 502)["detail"]
        api.role.add(what)
    assert server.http.get("/v1/cluster").status_code == 200


def test_scaling_requires_its_own_rule(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    api.role.remove("patch miniclusters/scale.flux-framework.org")
    server = own_server(*api.options)
    assert server.http.post("/v1/cluster/scale", json={"size": 3}).status_code == 202
    eventually(lambda: cluster(server)["scaling"]["state"] == "failed")
    found = cluster(server)
    assert (
        '{apiGroups: ["flux-framework.org"], resources: ["miniclusters/scale"], verbs: ["patch"]}'
        in found["scaling"]["detail"]
    )
    assert found["minicluster"]["size"] == 2


def test_failing_api_server(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    server = own_server(*api.options)
    for trouble, wait in ((FAILING, 1), (BUSY, 3), (GARBAGE, 1), (CLOSE, 1)):
        api.trouble["get jobs.batch"] = trouble
        answer = server.http.get("/v1/cluster")
        assert problem(answer, 503)["type"].endswith("cluster-unavailable")
        assert int(answer.headers["Retry-After"]) == wait
    api.trouble.clear()
    assert server.http.get("/v1/cluster").status_code == 200


def test_concurrent_requests_share_one_api_request(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    server = own_server(*api.options, "--kubernetes-job", "mc")
    for _ in range(20):
        cluster(server)
    assert api.requests.count("get jobs.batch") < 10


_WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"size": 4}, "size: this MiniCluster can have 1 to 3 nodes (spec.minSize, spec.maxSize), not 4."),
    ({"size": 0}, "size"),
    ({"size": "many"}, "size"),
    ({}, "size"),
    ({"size": 2, "timeout": -1}, "timeout"),
    ({"size": 2, "replicas": 2}, "'replicas' is not a parameter here"),
)


def test_invalid_sizes(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    server = own_server(*api.options)
    for body, text in _WRONG:
        assert text in problem(server.http.post("/v1/cluster/scale", json=body), 400)["detail"]
    assert "patch miniclusters/scale.flux-framework.org" not in api.requests


def test_scale_up(own_server: Callable[..., Server], api: ClusterAPI, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, alice="admin", bob="submit")
    server = own_server(*api.options, *tokens.options, "--log-format", "json")
    problem(server.http.post("/v1/cluster/scale", json={"size": 3}, headers=tokens.headers("bob")), 403)
    server.http.headers.update(tokens.headers("alice"))
    answer = server.http.post("/v1/cluster/scale", json={"size": 3})
    assert answer.status_code == 202, answer.text
    assert (answer.json()["was"], answer.json()["size"], answer.json()["by"]) == (2, 3, "alice")
    eventually(lambda: cluster(server)["scaling"]["state"] == "done")
    found = eventually(lambda: (now := cluster(server))["minicluster"]["size"] == 3 and now)
    assert (found["job"]["parallelism"], len(found["pods"]), found["minicluster"]["status"]["size"]) == (3, 3, 3)
    (event,) = [event for event in audit(server) if event["action"] == "cluster_scale" and event["outcome"] == "done"]
    assert (event["caller"], event["details"]["size"]) == ("alice", 3)


def test_scale_to_the_current_size(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    api.role.remove("patch miniclusters/scale.flux-framework.org")
    server = own_server(*api.options)
    assert server.http.post("/v1/cluster/scale", json={"size": 2}).status_code == 202
    eventually(lambda: cluster(server)["scaling"]["state"] == "done")
    assert "patch miniclusters/scale.flux-framework.org" not in api.requests


def test_no_scaling_during_a_stop(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    server = own_server(*api.options)
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    server.stop(mode="drain")
    assert "draining" in problem(server.http.post("/v1/cluster/scale", json={"size": 3}), 409)["detail"]


# ------------------------------------------------------------------------------------------------------------- events


def test_stop_creates_an_event(own_server: Callable[..., Server], api: ClusterAPI, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, alice="admin")
    server = own_server(*api.options, *tokens.options)
    server.http.headers.update(tokens.headers("alice"))
    assert server.stop(reason="it is late").status_code == 202
    assert server.wait(20) == 0
    (event,) = api.events
    assert (event["reason"], event["type"]) == ("Stopping", "Normal")
    assert event["message"] == "alice asked to stop the instance (mode now): it is late"
    assert api.minicluster is not None
    about = event["involvedObject"]
    assert (about["kind"], about["name"], about["uid"]) == ("MiniCluster", "mc", api.minicluster["metadata"]["uid"])


def test_stop_of_a_plain_job_creates_an_event(own_server: Callable[..., Server], api: ClusterAPI) -> None:
    api.plain()
    server = own_server(*api.options)
    server.stop()
    assert server.wait(20) == 0
    (event,) = api.events
    assert (event["involvedObject"]["kind"], event["message"]) == (
        "Job",
        "anonymous asked to stop the instance (mode now)",
    )


@pytest.mark.parametrize("trouble", [FAILING, HANG, None])
def test_stop_does_not_wait_for_kubernetes(own_server: Callable[..., Server], api: ClusterAPI, trouble: Any) -> None:
    if trouble is None:
        api.role.clear()
    else:
        api.trouble["create events"] = trouble
    server = own_server(*api.options)
    begin = time.monotonic()
    assert server.stop().status_code == 202
    assert server.wait(20) == 0
    assert time.monotonic() - begin < 12
    assert api.events == []
    assert "no Event was recorded" in server.text()
    assert "Traceback" not in server.text()
