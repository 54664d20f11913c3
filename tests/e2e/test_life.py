"""From `helm install` to a Job that is Complete, in every shape."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from sidecar.auth.tokens import make_token
from tests.e2e.cluster import JOB, LAUNCHER, SIDECAR, Release, Shape
from tests.support.harness import eventually
from tests.support.metrics import Metrics

pytestmark = [pytest.mark.e2e, pytest.mark.long]
shapes = pytest.mark.parametrize("shape", [SIDECAR, LAUNCHER, JOB], ids=str)
Install = Callable[..., Release]
APPLICATION = os.environ.get("E2E_APPLICATION_IMAGE", "")
OLD = os.environ.get("E2E_OLD_APPLICATION_IMAGE", "")


@shapes
@pytest.mark.parametrize("size", [1, 3])
def test_install_to_complete(install: Install, shape: Shape, size: int) -> None:
    cluster = install(shape, size).ready()

    # One task more than there are nodes: 4 on 3.
    names = cluster.output(["hostname"], num_nodes=size, num_tasks=size + 1)
    assert len(names) == size + 1
    assert set(names) == {f"{cluster.name}-{index}" for index in range(size)}

    running = cluster.submit(["sleep", "600"], num_nodes=size, exclusive=True)
    pending = cluster.submit(["sleep", "600"], num_nodes=size, exclusive=True)
    eventually(lambda: cluster.get(f"/v1/jobs/{running}")["state"] == "RUN", what="a running job")
    eventually(lambda: cluster.get(f"/v1/jobs/{pending}")["state"] == "SCHED", what="a pending job")

    def brokers() -> list[tuple[int, str]]:
        return [(pod["index"], pod["broker"]) for pod in cluster.get("/v1/cluster")["pods"]]

    eventually(lambda: brokers() == [(index, "up") for index in range(size)], what="brokers that are up")

    def scraped() -> bool:
        found = Metrics(cluster.call("GET", "/metrics").text)
        states = found.by("state", "flux_jobs")
        return (
            found("flux_instance_up") == 1
            and (states["run"], states["sched"], states["inactive"]) == (1, 1, 1)
            and found("flux_pending_nodes_max", queue="default") == size
            and found("flux_allocated_rank_max") == size - 1
            and found.by("state", "flux_nodes") == {"allocated": size, "free": 0, "drained": 0, "down": 0}
        )

    eventually(scraped, what="correct metrics")
    assert cluster.restarts() == 0
    cluster.stop()
    cluster.complete()
    assert cluster.restarts() == 0
    assert cluster.events()


@shapes
def test_helm_test_runs_a_job(install: Install, shape: Shape) -> None:
    cluster = install(shape)
    cluster.helm("test", cluster.name)
    assert [job["name"] for job in cluster.get("/v1/jobs")["jobs"]] == ["helm-test"]
    # Its pod would outlive the release.
    assert f"{cluster.name}-test" not in cluster.kubectl("get", "pods", "--output", "name")


@shapes
def test_requests_without_the_token_are_refused(install: Install, shape: Shape) -> None:
    cluster = install(shape).ready()
    cluster.token = "fxs_" + "x" * 43
    for headers in ({"Authorization": f"Bearer {cluster.token}"}, {"Authorization": ""}):
        answer = cluster.call("POST", "/v1/jobs/submit", json={"command": "id"}, headers=headers)
        assert answer.status_code == 401


@shapes
def test_upgrade_revokes_at_once(install: Install, shape: Shape) -> None:
    """The kubelet would update the mounted Secret after a minute or two."""
    token, line = make_token("ci", ["admin"])
    cluster = install(shape, auth={"callers": [line]}).ready()
    old = cluster.token
    cluster.try_upgrade(auth={"token": False, "callers": [line]})
    upgraded = time.monotonic()
    answer = eventually(
        lambda: (found := cluster.call("GET", "/v1/whoami")).status_code == 401 and found, within=30, what="a refusal"
    )
    assert time.monotonic() - upgraded < 15
    assert answer.status_code == 401
    assert cluster.token == old  # it was valid before
    cluster.token = token
    cluster.close_forward()
    assert cluster.call("GET", "/v1/whoami").json()["name"] == "ci"


@shapes
def test_services_of_the_servers_name_configure_nothing(install: Install, shape: Shape) -> None:
    """Kubernetes creates variables of them, such as FLUX_SIDECAR_METRICS_PORT=tcp://…, in pods of the operator."""
    cluster = install(shape, services=["flux-sidecar", "flux-sidecar-metrics"]).ready()
    assert cluster.restarts() == 0
    assert cluster.output(["echo", "served"]) == ["served"]


@shapes
def test_jobs_with_a_read_only_root_file_system(install: Install, shape: Shape) -> None:
    cluster = install(shape, application={"securityContext": {"readOnlyRootFilesystem": True}}).ready()
    script = "touch /x 2> /dev/null && echo writable; touch /tmp/x ~/x && echo both"
    assert cluster.output(["sh", "-c", script]) == ["both"]
    cluster.stop()
    cluster.complete()


@shapes
def test_token_secret_is_not_in_the_pods(install: Install, shape: Shape) -> None:
    cluster = install(shape).ready()
    found = cluster.output(["sh", "-c", "env; cat /etc/flux-sidecar/*/* 2>&1; true"])
    assert cluster.token not in "\n".join(found)


@shapes
def test_upgrade_keeps_the_token_and_the_cluster(install: Install, shape: Shape) -> None:
    cluster = install(shape).ready()
    token, pods = cluster.token, cluster.pod(0)
    job = cluster.submit(["true"])
    cluster.upgrade()
    assert (cluster.read_token(), cluster.pod(0)) == (token, pods)
    assert cluster.ended(job)["result"] == "COMPLETED"


@pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
def test_job_sees_its_own_container(install: Install, shape: Shape) -> None:
    path = "/opt/application/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    application = {"environment": {"PATH": path, "COLOUR": "blue"}}
    server = {"environment": {"FLUX_SIDECAR_HEARTBEAT": "20", "SERVERS_OWN": "yes"}}
    cluster = install(shape, application=application, server=server).ready()
    environment = dict(line.split("=", 1) for line in cluster.output(["env"]) if "=" in line)
    assert environment["COLOUR"] == "blue"
    # Flux prepends its own commands.
    assert environment["PATH"].endswith(path)
    assert "SERVERS_OWN" not in environment
    assert not [name for name in environment if name.startswith("FLUX_SIDECAR_")]


@pytest.mark.skipif(not APPLICATION, reason="E2E_APPLICATION_IMAGE names none: an image with Flux, without the server")
@pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
def test_application_image_with_the_servers_image(install: Install, shape: Shape) -> None:
    cluster = install(shape, application={"image": APPLICATION}).ready()
    assert cluster.output(["sh", "-c", "command -v flux; command -v flux-sidecar || echo none"])[-1] == "none"
    cluster.stop()
    cluster.complete()


@pytest.mark.skipif(not OLD, reason="E2E_OLD_APPLICATION_IMAGE names none: an image with an older Flux")
@pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
def test_older_flux_in_the_application_image(install: Install, shape: Shape) -> None:
    """The server's image has its own Flux, which talks to a broker that is years older."""
    cluster = install(shape, 2, application={"image": OLD}).ready()
    version = cluster.get("/v1/service")["instance"]["version"]
    assert cluster.shell(0, "flux version").split()[1] == version
    assert cluster.output(["flux", "version"])[0].split()[1] == version
    assert len(cluster.output(["hostname"], num_nodes=2)) == 2
    failed = cluster.ended(cluster.submit(["sh", "-c", "exit 3"]))
    assert (failed["result"], failed["returncode"]) == ("FAILED", 3)
    assert cluster.ended(cluster.submit(["sleep", "60"], runtime=1))["result"] == "TIMEOUT"
    job = cluster.submit(["sleep", "600"])
    eventually(lambda: cluster.get(f"/v1/jobs/{job}")["state"] == "RUN", what="a running job")
    assert cluster.nodes_up() == 2
    assert Metrics(cluster.call("GET", "/metrics").text).by("result", "flux_job_results_total")["timeout"] == 1
    cluster.stop()
    cluster.complete()


@pytest.mark.parametrize("shape", [SIDECAR, JOB], ids=str)
def test_names_resolve_all_the_time(install: Install, shape: Shape) -> None:
    cluster = install(shape, 3).ready()
    names = [f"{cluster.name}-{index}.{cluster.name}" for index in range(3)]
    # A name that does not resolve for a moment breaks MPI; DNS is queried each time.
    look = f"for _ in $(seq 100); do getent hosts {names[0]} && getent hosts {names[1]} && getent hosts {names[2]}"
    script = f"{look} || echo LOST; sleep 0.1; done"
    job = cluster.submit(["true"], num_nodes=3)
    found = cluster.shell(0, script, timeout=120).splitlines()
    assert cluster.ended(job)["result"] == "COMPLETED"
    assert "LOST" not in found
    assert len(found) == 300
