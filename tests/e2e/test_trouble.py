"""Failures, and changes of the size."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from kubernetes.utils import parse_quantity

from tests.e2e.cluster import JOB, SIDECAR, Release, Shape
from tests.e2e.kubernetes import core, present
from tests.support.harness import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]
beside = pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
Install = Callable[..., Release]

# The server is its container's first process, which the kernel protects from signals of the container. So it gets a
# limit of CPU time, which the kernel enforces with SIGKILL while it works.
_KILL = "python3 -c 'import resource; resource.prlimit(1, resource.RLIMIT_CPU, (1, 1))'"


@beside
def test_killed_server_restarts_with_every_job(install: Install, shape: Shape) -> None:
    cluster = install(shape).ready()
    past = cluster.submit(["true"])
    cluster.ended(past)
    running = cluster.submit(["sleep", "600"])
    eventually(lambda: cluster.get(f"/v1/jobs/{running}")["state"] == "RUN", what="a running job")

    cluster.shell(0, _KILL, "flux-sidecar")

    def gone() -> bool:
        try:
            cluster.call("GET", "/openapi.json")
        except httpx.TransportError:
            return True
        return False

    eventually(gone, within=60, what="a server that was killed")
    pod = cluster.pod(0)
    eventually(lambda: cluster.statuses()[f"{pod}/flux-sidecar"].restart_count == 1, within=60, what="a new server")
    last = present(cluster.statuses()[f"{pod}/flux-sidecar"].last_state)
    assert present(last.terminated).exit_code == 137
    cluster.ready()
    jobs = cluster.get("/v1/jobs")["jobs"]
    assert {job["f58id"]: job["state"] for job in jobs} == {past: "INACTIVE", running: "RUN"}
    flux = cluster.statuses()[f"{pod}/{cluster.flux_container}"]
    assert flux.restart_count == 0
    cluster.stop()
    cluster.complete()


def test_killed_broker_is_a_new_instance(install: Install) -> None:
    cluster = install(SIDECAR, 3).ready()
    old = cluster.submit(["true"])
    cluster.ended(old)
    find = 'for p in /proc/[0-9]*; do read -r name < "$p/comm"; [ "$name" != flux-broker-0 ] || kill -9 "${p#/proc/}"; done'
    cluster.shell(0, find)
    pod = cluster.pod(0)
    eventually(lambda: cluster.statuses()[f"{pod}/{cluster.name}"].restart_count == 1, within=60, what="a new broker")
    cluster.ready()
    assert cluster.get("/v1/jobs")["jobs"] == []
    eventually(lambda: cluster.nodes_up() == 3, within=120, what="three nodes")  # followers restart with a back-off
    assert len(cluster.output(["hostname"], num_nodes=3, num_tasks=3)) == 3
    assert cluster.statuses()[f"{pod}/flux-sidecar"].restart_count == 0
    cluster.stop()
    cluster.complete()


@beside
def test_deleted_worker_is_recreated(install: Install, shape: Shape) -> None:
    cluster = install(shape, 3).ready()
    before = cluster.pod(2)
    cluster.kubectl("delete", "pod", before, timeout=90)
    eventually(lambda: len(cluster.pods()) == 3 and cluster.pod(2) != before, within=60, what="another pod")
    eventually(lambda: cluster.nodes_up() == 3, within=90, what="three nodes")
    assert len(cluster.output(["hostname"], num_nodes=3, num_tasks=3)) == 3
    cluster.stop()
    cluster.complete()


@pytest.mark.parametrize("by", ["the API", "kubectl"])
def test_cluster_is_scaled(install: Install, by: str) -> None:
    cluster = install(SIDECAR, 1, maxSize=3).ready()
    for size in (3, 2):
        if by == "kubectl":
            cluster.kubectl("scale", "minicluster", cluster.name, f"--replicas={size}")
        else:
            answer = cluster.call("POST", "/v1/cluster/scale", json={"size": size})
            assert answer.status_code == 202, answer.text
        eventually(lambda: len(cluster.pods()) == size, within=120, what=f"{size} pods")  # noqa: B023
        eventually(lambda: cluster.nodes_up() == size, within=120, what=f"{size} nodes")  # noqa: B023
        assert len(cluster.output(["hostname"], num_nodes=size, num_tasks=size)) == size
    cluster.stop()
    cluster.complete()


@beside
def test_pending_pods_are_reported(install: Install, shape: Shape) -> None:
    """Of three pods that request most of a node's free resources, one cannot be scheduled."""
    free = 0.9 * float(parse_quantity(present(present(core().list_node().items[0].status).allocatable)["cpu"]))
    cluster = install(shape, 3, application={"resources": {"requests": {"cpu": f"{free / 2:.2f}"}}})

    def reason() -> str:
        return str(cluster.get("/v1/service")["waits_for"])

    eventually(lambda: "is not scheduled" in reason() and "Insufficient cpu" in reason(), within=120, what="the reason")
    eventually(lambda: "WaitingForBrokers" in cluster.reasons(), within=120, what="an Event")
    stopped = cluster.stop()
    assert stopped["state"] == "waiting"
    assert "Insufficient cpu" in stopped["Message"]


@beside
def test_failed_start_is_reported(install: Install, shape: Shape) -> None:
    cluster = install(shape, server={"environment": {"FLUX_SIDECAR_MAX_STREAMS": "0"}})
    text = "--max-streams must be more than 0"
    eventually(lambda: "StartFailed" in cluster.reasons(), within=120, what="an Event")
    assert text in cluster.kubectl("get", "events")
    last = eventually(
        lambda: present(next(s for n, s in cluster.statuses().items() if n.endswith("/flux-sidecar")).last_state).terminated,
        within=60, what="a container that has ended",
    )  # fmt: skip
    assert last.exit_code == 2
    assert text in str(last.message)  # kubectl describe shows it
    argv = ("logs", cluster.pod(0), "--container", "flux-sidecar")
    (line,) = eventually(lambda: cluster.kubectl(*argv).splitlines(), within=60, what="its log")
    assert text in json.loads(line)["reason"]
