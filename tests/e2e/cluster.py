"""A release of the chart in its own namespace, and its API over a port-forward."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from kubernetes.client import CoreV1Event, V1ContainerStatus, V1DeleteOptions, V1Eviction, V1Job, V1ObjectMeta, V1Pod

from tests.e2e.kubernetes import batch, container_statuses, core, exit_code, job_result, pods_of, present
from tests.support.harness import HELM, ROOT, eventually

CHART = ROOT / "helm/flux-sidecar"
REPORTS = Path(os.environ.get("E2E_REPORTS", ROOT / "e2e-report"))

#: Timeout of a cluster that has to pull no image.
_PROBE = 10.0  # seconds: a request over the forward of a pod that has gone is not answered
START, END = 180.0, 90.0


class Shape(NamedTuple):
    """The way in which the chart runs Flux."""

    workload: str
    mode: str

    def __str__(self) -> str:
        return "job" if self.workload == "job" else self.mode


SIDECAR, LAUNCHER, JOB = Shape("minicluster", "sidecar"), Shape("minicluster", "launcher"), Shape("job", "sidecar")


def run(*argv: str, timeout: float = 300, check: bool = True, text: str | None = None) -> str:
    """Return the output of a command, with an optional input; fail with its errors."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, input=text)
    assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Release:
    """One installation of the chart, in its own namespace."""

    def __init__(self, image: str, shape: Shape, size: int = 1) -> None:
        self.name, self.shape, self.size = "flux", shape, size
        self.namespace = f"flux-e2e-{uuid.uuid4().hex[:8]}"
        repository, _, tag = image.rpartition(":")
        self._values: dict[str, Any] = {
            "workload": shape.workload,
            "mode": shape.mode,
            "size": size,
            "image": {"repository": repository, "tag": tag},
        }
        self._forward: subprocess.Popen[str] | None = None
        self._http: httpx.Client | None = None
        self.token = ""
        self.basic: tuple[str, str] | None = None

    # ------------------------------------------------------------------------------------------ kubectl and helm

    def kubectl(self, *arguments: str, timeout: float = 300, check: bool = True) -> str:
        return run("kubectl", "--namespace", self.namespace, *arguments, timeout=timeout, check=check)

    def helm(self, *arguments: str, timeout: float = 300) -> str:
        return run(str(HELM), "--namespace", self.namespace, *arguments, timeout=timeout)

    def install(self, *, services: Sequence[str] = (), **values: Any) -> Release:
        """Install the chart into the namespace, which then has the given Services."""
        run("kubectl", "create", "namespace", self.namespace)
        for name in services:
            self.kubectl("create", "service", "clusterip", name, "--tcp=5000")
        self._values |= values
        return self.upgrade()

    def upgrade(self, **values: Any) -> Release:
        """Upgrade with these values too, or install; fail with helm's error."""
        done = self.try_upgrade(**values)
        assert done.returncode == 0, done.stderr
        self.token = self.read_token()
        return self

    def try_upgrade(self, chart: Path = CHART, **more: Any) -> subprocess.CompletedProcess[str]:
        """Try to upgrade, or to install, with these values too."""
        values = json.dumps(self._values | more)
        argv = [
            str(HELM),
            "--namespace",
            self.namespace,
            "upgrade",
            "--install",
            self.name,
            str(chart),
            "--values",
            "-",
        ]
        return subprocess.run(argv, input=values, capture_output=True, text=True, timeout=120)

    def read_token(self) -> str:
        template = "go-template={{.data.token | base64decode}}"
        return self.kubectl("get", "secret", f"{self.name}-token", "--output", template)

    def job(self) -> V1Job:
        return batch().read_namespaced_job(self.name, self.namespace)

    def all_pods(self) -> list[V1Pod]:
        """Return the pods of the cluster by index, with those that are being deleted."""
        return pods_of(self.namespace, self.name)

    def pods(self) -> list[V1Pod]:
        """Return the pods of the cluster that are not being deleted, by index."""
        return [pod for pod in self.all_pods() if present(pod.metadata).deletion_timestamp is None]

    def pod(self, index: int) -> str:
        return str(present(self.pods()[index].metadata).name)

    def delete_pod(self, name: str) -> None:
        """Delete a pod, and do not wait for its end."""
        core().delete_namespaced_pod(name, self.namespace, body=V1DeleteOptions())

    @property
    def forwarded(self) -> str:
        """The target of a port-forward."""
        return f"service/{self.name}-api"

    @property
    def flux_container(self) -> str:
        """The container with the broker; the operator names it after the MiniCluster."""
        return "flux" if self.shape.workload == "job" else self.name

    def shell(self, index: int, script: str, container: str = "", timeout: float = 60, *, check: bool = True) -> str:
        return self.kubectl(
            "exec", self.pod(index), "--container", container or self.flux_container, "--", "bash", "-c", script,
            timeout=timeout, check=check,
        )  # fmt: skip

    def statuses(self) -> dict[str, V1ContainerStatus]:
        """Return the status of each container that must run until the end, by ``POD/CONTAINER``."""
        return {
            f"{present(pod.metadata).name}/{status.name}": status
            for pod in self.pods()
            for status in container_statuses(pod)
        }

    # ---------------------------------------------------------------------------------------------------- the API

    def http(self) -> httpx.Client:
        """Return a client of the API, over a port-forward that is renewed when it has ended."""
        if self._forward is not None and self._forward.poll() is None and self._http is not None:
            return self._http
        self.close_forward()
        argv = ["kubectl", "--namespace", self.namespace, "port-forward", self.forwarded, ":5000"]
        # By default it waits a minute for a pod that runs: also after the last one has ended.
        argv += ["--pod-running-timeout=5s"]
        self._forward = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self._forward.stdout is not None
        line = self._forward.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        if match is None:
            raise httpx.ConnectError(line or "port-forward has ended")
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{match[1]}", headers=headers, timeout=90, trust_env=False,
            auth=self.basic,
            limits=httpx.Limits(max_keepalive_connections=0),
        )  # fmt: skip
        return self._http

    def call(self, method: str, path: str, **details: Any) -> httpx.Response:
        """Send one request to the API; a failed connection is an error of httpx."""
        try:
            return self.http().request(method, path, **details)
        except httpx.TransportError:
            self.close_forward()
            raise

    def get(self, path: str) -> Any:
        """Return the body of a GET with status 200; retry while the server cannot be reached."""

        def answered() -> httpx.Response | None:
            with contextlib.suppress(httpx.TransportError):
                return self.call("GET", path)
            return None

        answer = eventually(answered, within=START, what=f"answer to {path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def is_ready(self) -> bool:
        """Return whether the server is ready; its pod may be ending, or not be there yet."""
        with contextlib.suppress(httpx.TransportError):
            return self.call("GET", "/readyz", timeout=_PROBE).status_code == 200
        return False

    def ready(self) -> Release:
        eventually(self.is_ready, within=START, what="readiness")
        return self

    def submit(self, command: str | list[str], **parameters: Any) -> str:
        """Submit a job as a client should: with a key, and again if a busy broker has not responded yet."""
        headers = {"Idempotency-Key": uuid.uuid4().hex}

        def accepted() -> httpx.Response | None:
            body = {"command": command, **parameters}
            answer = self.call("POST", "/v1/jobs/submit", json=body, headers=headers)
            if answer.status_code == 503:
                assert answer.headers["Retry-After"], answer.text
                return None
            return answer

        answer = eventually(accepted, what="a response to a submit")
        assert answer.status_code == 200, answer.text
        return str(answer.json()["f58id"])

    def ended(self, job: str) -> dict[str, Any]:
        found = self.get(f"/v1/jobs/{job}?wait=60")
        assert found["state"] == "INACTIVE", found
        return dict(found)

    def output(self, command: str | list[str], **parameters: Any) -> list[str]:
        """Run a job; return its lines."""
        job = self.submit(command, **parameters)
        found = self.ended(job)
        lines = [str(line).rstrip("\n") for line in self.get(f"/v1/jobs/{job}/output").get("Output", ())]
        assert found["result"] == "COMPLETED", (found, lines)
        return lines

    def stop(self, **parameters: Any) -> dict[str, Any]:
        answer = self.call("POST", "/v1/service/stop", json=parameters)
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    def nodes_up(self) -> int:
        nodes = self.get("/v1/nodes?details=true")["nodes"]
        return sum(node["state"] != "down" for node in nodes)

    # -------------------------------------------------------------------------------------------------------- end

    def final(self, within: float = END) -> str:
        """Wait until the Job has ended; return Complete or Failed."""
        self.close_forward()
        return str(eventually(lambda: job_result(self.job()), within=within, what="end of the Job"))

    def complete(self) -> None:
        """Wait until the Job is Complete, and check that every container has exited with 0."""
        assert self.final() == "Complete"
        codes = {name: exit_code(status) for name, status in self.statuses().items()}
        assert codes, "the Job has no pods"
        assert not {name: code for name, code in codes.items() if code != 0}
        assert {present(pod.status).phase for pod in self.pods()} == {"Succeeded"}

    def evict(self, *indexes: int) -> None:
        """Evict pods by the API that `kubectl drain` uses."""
        for name in [self.pod(index) for index in indexes]:
            eviction = V1Eviction(metadata=V1ObjectMeta(name=name, namespace=self.namespace))
            core().create_namespaced_pod_eviction(name, self.namespace, eviction)

    def events(self) -> list[CoreV1Event]:
        """Return the Events that the server has created."""
        found = core().list_namespaced_event(self.namespace).items
        return [event for event in found if event.source and event.source.component == "flux-sidecar"]

    def reasons(self) -> list[str]:
        return [str(event.reason) for event in self.events()]

    def restarts(self) -> int:
        return sum(status.restart_count for status in self.statuses().values())

    def report(self, name: str) -> Path:
        """Write a report of a failed test."""
        directory = REPORTS / re.sub(r"[^\w.-]+", "_", name)
        directory.mkdir(parents=True, exist_ok=True)
        wanted = {
            "objects": ("get", "all,minicluster,secret,configmap,networkpolicy", "--output", "wide"),
            "pods": ("describe", "pods"),
            "events": ("get", "events", "--sort-by", ".lastTimestamp"),
            "cluster": ("get", "minicluster,job", "--output", "yaml"),
        }
        for title, arguments in wanted.items():
            (directory / f"{title}.txt").write_text(self.kubectl(*arguments, check=False))
        pods = self.kubectl("get", "pods", "--output", "name", check=False).split()
        for pod in pods:
            for previous in ((), ("--previous",)):
                text = self.kubectl("logs", pod, "--all-containers", "--prefix", *previous, check=False)
                (directory / f"{pod.removeprefix('pod/')}{'.before' if previous else ''}.log").write_text(text)
        return directory

    def close(self) -> None:
        self.close_forward()
        run("kubectl", "delete", "namespace", self.namespace, "--wait=false", "--ignore-not-found")

    def close_forward(self) -> None:
        if self._http is not None:
            self._http.close()
        if self._forward is not None:
            self._forward.kill()
            self._forward.communicate()
        self._http = self._forward = None
