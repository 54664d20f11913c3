"""The cluster, by the official Kubernetes client and the current context of KUBECONFIG."""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TypeVar, cast

import urllib3
from kubernetes import client, config, watch
from kubernetes.client import V1ContainerStatus, V1Job, V1Pod

T = TypeVar("T")
INDEX = "batch.kubernetes.io/job-completion-index"


@functools.cache
def api_client() -> client.ApiClient:
    """Return the client of this process."""
    return cast(client.ApiClient, config.new_client_from_config())


@functools.cache
def core() -> client.CoreV1Api:
    return client.CoreV1Api(api_client())


@functools.cache
def batch() -> client.BatchV1Api:
    return client.BatchV1Api(api_client())


def present(value: T | None) -> T:
    """Return a field that is optional by its type, and that the API server sets."""
    assert value is not None
    return value


def pods_of(namespace: str, job: str) -> list[V1Pod]:
    """Return all pods of a Job, by index; also those that are being deleted."""
    found = core().list_namespaced_pod(namespace, label_selector=f"job-name={job}").items
    return sorted(found, key=index_of)


def index_of(pod: V1Pod) -> int:
    """Return a pod's completion index."""
    return int(present(present(pod.metadata).labels)[INDEX])


def container_statuses(pod: V1Pod) -> list[V1ContainerStatus]:
    """Return the statuses of the containers that must run until the end of the pod."""
    status = present(pod.status)
    return [*(status.init_container_statuses or ()), *(status.container_statuses or ())]


def exit_code(status: V1ContainerStatus) -> int | None:
    """Return the exit code of a container; None while it has none."""
    terminated = present(status.state).terminated
    return terminated.exit_code if terminated else None


def job_result(job: V1Job) -> str | None:
    """Return ``Complete`` or ``Failed``; None while the Job runs."""
    found = (each.type for each in present(job.status).conditions or () if each.status == "True")
    return next((kind for kind in found if kind in ("Complete", "Failed")), None)


def ready_nodes() -> int:
    """Return the number of nodes that are ready, as their kubelets report."""
    conditions = (each for node in core().list_node().items for each in present(present(node.status).conditions))
    return sum(each.type == "Ready" and each.status == "True" for each in conditions)


class PodWatch:
    """Records the last status of each pod of a Job, also of those that are deleted."""

    def __init__(self, namespace: str, job: str) -> None:
        self.pods: dict[str, V1Pod] = {}
        """By name."""
        self._stream = watch.Watch()
        self._thread = threading.Thread(target=self._read, args=(namespace, job), daemon=True)
        self._thread.start()

    def _read(self, namespace: str, job: str) -> None:
        events = self._stream.stream(core().list_namespaced_pod, namespace, label_selector=f"job-name={job}")
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # close() cuts the connection
            for event in events:
                self.pods[event["object"].metadata.name] = event["object"]

    def codes(self) -> dict[tuple[int, str], int | None]:
        """Return the exit code of each container that must run until the end, by index and name of the container."""
        return {
            (index_of(pod), status.name): exit_code(status)
            for pod in self.pods.values()
            for status in container_statuses(pod)
        }

    def close(self) -> None:
        self._stream.stop()
        self._thread.join(30)
