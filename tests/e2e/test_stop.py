"""Stops of an instance."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.cluster import JOB, LAUNCHER, SIDECAR, Release, Shape
from tests.support.harness import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]
shapes = pytest.mark.parametrize("shape", [SIDECAR, LAUNCHER, JOB], ids=str)
Install = Callable[..., Release]

_GRACE = 30.0  # of a MiniCluster's pods; the operator has no option for it


@pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
def test_stop_before_there_is_a_quorum(install: Install, shape: Shape) -> None:
    hold = '[ "$JOB_COMPLETION_INDEX" != 2 ] || until [ -e /tmp/go ]; do sleep 0.2; done'
    cluster = install(shape, 3, application={"pre": hold})

    def quorum() -> bool:
        return "quorum" in str(cluster.get("/v1/service"))

    eventually(quorum, within=120, what="a broker that waits for its quorum")
    assert cluster.stop()["state"] == "waiting"
    cluster.shell(2, "touch /tmp/go")
    cluster.complete()


@shapes
def test_two_stops(install: Install, shape: Shape) -> None:
    cluster = install(shape).ready()
    cluster.submit(["sleep", "600"])
    drained = cluster.stop(mode="drain")
    assert drained["state"] == "draining"
    assert cluster.stop(mode="drain")["state"] == "draining"
    cluster.stop(mode="now")
    cluster.complete()


@shapes
def test_drain_lets_jobs_finish(install: Install, shape: Shape) -> None:
    cluster = install(shape).ready()
    job = cluster.submit(["sleep", "5"])
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(cluster.call, "GET", f"/v1/jobs/{job}?wait=60")
        cluster.stop(mode="drain")
        late = cluster.call("POST", "/v1/jobs/submit", json={"command": "true"})
        assert late.status_code in (409, 503), late.text
        found = ended.result().json()
    assert (found["state"], found["result"]) == ("INACTIVE", "COMPLETED")
    cluster.complete()


@shapes
def test_deleted_cluster_ends_within_its_grace_period(install: Install, shape: Shape) -> None:
    cluster = install(shape, 3).ready()
    cluster.submit(["sleep", "600"], num_nodes=3)
    begun = time.monotonic()
    cluster.kubectl("delete", "job" if shape == JOB else "minicluster", cluster.name)
    eventually(lambda: not cluster.all_pods(), within=90)
    # A pod that does not end by itself is killed at the end of the grace period.
    assert time.monotonic() - begun < _GRACE - 5
