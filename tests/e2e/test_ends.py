"""Ends of an instance other than a stop: orderly, or as a failure with an Event; nothing hangs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cluster import CHART, JOB, LAUNCHER, SIDECAR, Release, Shape, run
from tests.e2e.kubernetes import PodWatch, core, job_result, present, ready_nodes
from tests.e2e.test_trouble import _KILL
from tests.support.harness import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
shapes = pytest.mark.parametrize("shape", [SIDECAR, LAUNCHER, JOB], ids=str)
beside = pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
sizes = pytest.mark.parametrize("size", [1, 3])
Install = Callable[..., Release]

#: Commands that stop a node's kubelet and start it again, for the tests that need it.
KUBELET_STOP, KUBELET_START = os.environ.get("E2E_KUBELET_STOP", ""), os.environ.get("E2E_KUBELET_START", "")

#: A job that takes two seconds to end, so that the ends can overlap.
SLOW = ["bash", "-c", "trap 'sleep 2; exit' TERM; while :; do sleep 0.2; done"]


def busy(cluster: Release) -> Release:
    """Start jobs on every node, and one that waits."""
    for command in (SLOW, ["sleep", "600"]):
        cluster.submit(command, num_nodes=cluster.size, exclusive=True)
    eventually(lambda: len(cluster.get("/v1/jobs?state=RUN")["jobs"]) == 1, what="a running job")
    return cluster


@shapes
@sizes
@pytest.mark.parametrize("how", ["deleted", "evicted"])
def test_deletion_of_the_leads_pod(install: Install, shape: Shape, size: int, how: str) -> None:
    """It is a stop: jobs are canceled in order, and the Job is Complete."""
    cluster = busy(install(shape, size).ready())
    if how == "deleted":
        cluster.delete_pod(cluster.pod(0))
    else:
        cluster.evict(0)
    begun = time.monotonic()
    assert cluster.final() == "Complete"
    assert time.monotonic() - begun < 45
    assert not present(cluster.job().status).failed


@beside
def test_deletion_of_the_leads_pod_during_a_stop(install: Install, shape: Shape) -> None:
    """The broker is in CLEANUP when the kubelet ends the pod: a signal would abort the cleanup."""
    cluster = busy(install(shape, 3).ready())
    cluster.stop()
    cluster.delete_pod(cluster.pod(0))
    assert cluster.final() == "Complete"


@shapes
def test_eviction_of_all_pods(install: Install, shape: Shape) -> None:
    """As by a drain of their node: recreated followers find that the lead has completed."""
    cluster = busy(install(shape, 3).ready())
    cluster.evict(1, 2, 0)
    assert cluster.final(within=180) == "Complete"


@shapes
@sizes
def test_uninstall_of_the_release(install: Install, shape: Shape, size: int) -> None:
    cluster = busy(install(shape, size).ready())
    watch = PodWatch(cluster.namespace, cluster.name)
    eventually(lambda: len(watch.pods) == size, what="the pods")
    begun = time.monotonic()
    cluster.helm("uninstall", cluster.name)
    eventually(lambda: not cluster.all_pods(), within=90)
    assert time.monotonic() - begun < 28  # a pod that does not end by itself is killed at 30 s
    codes = watch.codes()
    watch.close()
    assert {code for (index, _), code in codes.items() if index == 0} == {0}
    assert {code for (index, _), code in codes.items() if index} <= {0, 143}


@shapes
def test_upgrade_that_a_running_release_cannot_apply(install: Install, shape: Shape, tmp_path: Path) -> None:
    cluster = install(shape, 2).ready()
    job = cluster.submit(["sleep", "600"])
    pods = [cluster.pod(index) for index in range(2)]
    others: list[dict[str, Any]] = [
        {"size": 3},
        {"server": {"port": 5001}},
        {"nameOverride": "another"},
        {"workload": "minicluster" if shape == JOB else "job", "mode": "sidecar"},
        {"application": {"environment": {"COLOUR": "blue"}}},
    ]
    for values in others:
        done = cluster.try_upgrade(**values)
        assert done.returncode != 0, values
        assert "an upgrade cannot change" in done.stderr
        assert next(iter(values)) in done.stderr
    other = tmp_path / "flux-sidecar"
    shutil.copytree(CHART, other)
    helpers = other / "templates/_helpers.tpl"
    helpers.write_text(
        helpers.read_text().replace('"FLUX_SIDECAR_LOST_TIMEOUT" "10"', '"FLUX_SIDECAR_LOST_TIMEOUT" "11"')
    )
    done = cluster.try_upgrade(other)
    assert done.returncode != 0
    assert "would make different ones" in done.stderr
    cluster.upgrade(service={"annotations": {"example.com/changed": "yes"}})
    assert [cluster.pod(index) for index in range(2)] == pods
    assert cluster.get(f"/v1/jobs/{job}")["state"] == "RUN"


def test_kept_claim_with_other_values(install: Install) -> None:
    """The API server would refuse the upgrade of a claim in the middle of an installation."""
    store = {"enabled": True, "size": "2Gi", "accessModes": ["ReadWriteOnce"]}
    cluster = install(SIDECAR, store=store)
    cluster.helm("uninstall", cluster.name)
    assert core().read_namespaced_persistent_volume_claim(f"{cluster.name}-store", cluster.namespace)
    for values, text in (
        ({"size": "2000Mi"}, "store.size (it has 2Gi, and cannot shrink)"),
        ({"accessModes": ["ReadWriteMany"]}, "store.accessModes (it has ReadWriteOnce)"),
        ({"storageClass": "another"}, "store.storageClass"),
    ):
        done = cluster.try_upgrade(store=store | values)
        assert done.returncode != 0
        assert text in done.stderr
    assert cluster.try_upgrade(store=store | {"size": "2048Mi"}).returncode == 0


def kill(cluster: Release, how: str) -> None:
    """Kill the server: by a limit of CPU time, or of memory."""
    container = cluster.flux_container if cluster.shape == LAUNCHER else "flux-sidecar"
    if how == "killed":
        # In a launcher's container the first process is a shell: the server is found by its name.
        find = "for p in /proc/[0-9]*; do read -r n < $p/comm; [ $n != flux-sidecar ] || echo ${p#/proc/}; done"
        last = f"p=$({find} | sort -n | tail -1); kill -9 $p"
        cluster.shell(0, last if cluster.shape == LAUNCHER else _KILL, container)
    else:
        # Memory of the container that belongs to no process: the server uses the most of all processes that can be
        # killed. If it is the container's first process, this shell ends with it.
        cluster.shell(0, "head -c 63M /dev/zero > /dev/shm/fill", container, check=False)
    cluster.close_forward()


def down(cluster: Release) -> bool:
    try:
        return cluster.call("GET", "/livez", timeout=10).status_code != 200
    except httpx.TransportError:
        return True


@beside
@sizes
def test_sidecar_that_is_killed_for_its_memory(install: Install, shape: Shape, size: int) -> None:
    """It is restarted, and the instance continues."""
    limits = {"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "112Mi"}}
    cluster = install(shape, size, server={"resources": limits}).ready()
    job = cluster.submit(["sleep", "600"])
    eventually(lambda: cluster.get(f"/v1/jobs/{job}")["state"] == "RUN", what="a running job")
    kill(cluster, "out of memory")
    name = f"{cluster.pod(0)}/flux-sidecar"
    eventually(lambda: cluster.statuses()[name].restart_count >= 1, within=60, what="a new server")
    last = present(cluster.statuses()[name].last_state)
    assert present(last.terminated).exit_code == 137
    cluster.shell(0, "rm -f /dev/shm/fill", "flux-sidecar")
    assert cluster.ready().get(f"/v1/jobs/{job}")["state"] == "RUN"
    cluster.stop()
    assert cluster.final() == "Complete"


@sizes
def test_launcher_that_is_killed(install: Install, size: int) -> None:
    """The instance ends with it. Followers have completed then, so a larger instance fails, and reports why."""
    cluster = install(LAUNCHER, size).ready()
    old = cluster.submit(["true"])
    cluster.ended(old)
    kill(cluster, "killed")
    if size > 1:
        assert cluster.final(within=600) == "Failed"
        assert "InstanceLost" in cluster.reasons()
        return
    status = f"{cluster.pod(0)}/{cluster.flux_container}"
    eventually(lambda: cluster.statuses()[status].restart_count == 1, within=60, what="a new instance")
    assert cluster.ready().output(["hostname"]) == [f"{cluster.name}-0"]
    cluster.stop()
    assert cluster.final() == "Complete"


@beside
def test_recreated_lead_with_completed_followers(install: Install, shape: Shape) -> None:
    """A broker whose cleanup was aborted exits with 129; its followers are not recreated."""
    cluster = busy(install(shape, 3).ready())
    twice = (
        'for p in /proc/[0-9]*; do read -r name < "$p/comm"; [ "$name" != flux-broker-0 ] || broker=${p#/proc/}; done;'
        "kill $broker; sleep 0.5; kill $broker"
    )
    cluster.shell(0, twice)
    assert cluster.final(within=600) == "Failed"
    assert "InstanceLost" in cluster.reasons()


@beside
def test_stop_of_an_instance_that_never_runs_has_a_deadline(install: Install, shape: Shape) -> None:
    hold = '[ "$JOB_COMPLETION_INDEX" != 2 ] || sleep 3600'
    server = {"environment": {"FLUX_SIDECAR_START_TIMEOUT": "3"}}
    cluster = install(shape, 3, application={"pre": hold}, server=server)
    eventually(lambda: "quorum" in str(cluster.get("/v1/service")), within=120, what="a broker that waits")
    assert cluster.stop()["state"] == "waiting"
    assert cluster.final(within=600) == "Failed"
    assert "StoppedBeforeRun" in cluster.reasons()


@pytest.fixture
def kubelet() -> Iterator[Callable[[Release, Callable[[], Any]], None]]:
    """Stop the kubelet for some seconds."""
    if not (KUBELET_STOP and KUBELET_START):
        pytest.skip("E2E_KUBELET_STOP and E2E_KUBELET_START name no commands: the node's kubelet cannot be ended")

    def away(cluster: Release, until: Callable[[], Any]) -> None:
        subprocess.run(["bash", "-c", KUBELET_STOP], check=True, timeout=60)
        try:
            eventually(until, within=300, what="the time without a kubelet")
        finally:
            subprocess.run(["bash", "-c", KUBELET_START], check=True, timeout=60)

    yield away
    run("kubectl", "wait", "--for=condition=Ready", "node", "--all", "--timeout=120s", timeout=150)


@shapes
@sizes
def test_node_without_its_kubelet_for_a_while(
    install: Install, shape: Shape, size: int, kubelet: Callable[..., None]
) -> None:
    """Shorter than the toleration of the node's pods: nothing happens."""
    cluster = busy(install(shape, size).ready())
    kubelet(cluster, lambda: not ready_nodes())
    eventually(ready_nodes, within=120, what="a node that is ready")
    assert len(cluster.ready().get("/v1/jobs?state=RUN")["jobs"]) == 1
    cluster.stop()
    assert cluster.final(within=120) == "Complete"


@shapes
@sizes
def test_node_that_is_given_up(install: Install, shape: Shape, size: int, kubelet: Callable[..., None]) -> None:
    """Its pods are deleted, and end in order when the kubelet is back: the Job ends, or a new instance can be stopped."""
    cluster = busy(install(shape, size).ready())
    names = {cluster.pod(index) for index in range(size)}

    def deleted() -> bool:
        found = [present(pod.metadata) for pod in cluster.all_pods()]
        return names <= {each.name for each in found if each.deletion_timestamp}

    def given_up() -> bool:
        if not deleted():
            for name in names:
                cluster.delete_pod(name)
        return True

    kubelet(cluster, lambda: not ready_nodes() and given_up())
    eventually(ready_nodes, within=120, what="a node that is ready")

    def over() -> bool:
        if job_result(cluster.job()):
            return True
        return not down(cluster) and cluster.is_ready()

    eventually(over, within=300, what="the end of the Job, or a new instance")
    if not job_result(cluster.job()):
        with contextlib.suppress(httpx.TransportError):  # the first instance may be ending after all
            cluster.stop()
    assert cluster.final(within=300) in ("Complete", "Failed")
