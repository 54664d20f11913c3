"""``/v1/cluster``: the pods, the Job and the MiniCluster in which this instance runs, and their size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.fields import Updated
from sidecar.auth.guard import caller_of
from sidecar.cluster.objects import Condition, Job, MiniCluster, Pod
from sidecar.domain.durations import AS_TEXT
from sidecar.domain.errors import Conflict, NotFound
from sidecar.domain.model import Node
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import json_response
from sidecar.instance import Instance
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.scaling import Scaler, Scaling

if TYPE_CHECKING:  # it loads the Kubernetes client, which a server outside Kubernetes does not need
    from sidecar.cluster.cluster import Cluster, ClusterSnapshot


class ClusterCondition(msgspec.Struct):
    """A condition in the status of a Kubernetes object."""

    type: Annotated[str, Meta(description="type of the condition, such as Complete")]
    status: Annotated[str, Meta(description="True, False or Unknown")]
    reason: Annotated[str, Meta(description="reason for the last transition, as one word")] = ""
    message: Annotated[str, Meta(description="details of the last transition")] = ""


class MiniClusterStatusBody(msgspec.Struct):
    """The status of a MiniCluster, which the Flux Operator writes."""

    size: Annotated[int, Meta(description="size after the last resize; 0 before the first")]
    maximum_size: Annotated[int, Meta(description="largest size of the MiniCluster")]
    conditions: Annotated[list[ClusterCondition], Meta(description="conditions of the MiniCluster")]


class MiniClusterBody(msgspec.Struct):
    """A MiniCluster of the Flux Operator."""

    name: Annotated[str, Meta(description="name of the MiniCluster")]
    namespace: Annotated[str, Meta(description="namespace of the MiniCluster")]
    size: Annotated[int, Meta(description="desired number of brokers")]
    min_size: Annotated[int, Meta(description="smallest allowed size")]
    max_size: Annotated[int, Meta(description="largest allowed size")]
    status: Annotated[MiniClusterStatusBody, Meta(description="status from the operator")]


class ClusterJob(msgspec.Struct):
    """The Kubernetes Job of the brokers' pods."""

    name: Annotated[str, Meta(description="name of the Job")]
    completions: Annotated[int | None, Meta(description="pods that have to succeed")]
    parallelism: Annotated[int | None, Meta(description="pods that may run at the same time")]
    active: Annotated[int, Meta(description="pods that are pending or running")]
    ready: Annotated[int, Meta(description="pods that are ready")]
    succeeded: Annotated[int, Meta(description="pods that have succeeded")]
    failed: Annotated[int, Meta(description="pods that have failed")]
    conditions: Annotated[list[ClusterCondition], Meta(description="conditions of the Job, such as Complete")]


class ClusterPod(msgspec.Struct):
    """A pod and its broker."""

    name: Annotated[str, Meta(description="name of the pod")]
    index: Annotated[int | None, Meta(description="completion index")]
    hostname: Annotated[str, Meta(description="host name of the pod")]
    phase: Annotated[str, Meta(description="Pending, Running, Succeeded, Failed or Unknown")]
    ready: Annotated[bool, Meta(description="whether the pod is ready")]
    terminating: Annotated[bool, Meta(description="whether the pod is being deleted")]
    node: Annotated[str, Meta(description="Kubernetes node of the pod; empty before it is scheduled")]
    ip: Annotated[str, Meta(description="IP address of the pod; empty before it has one")]
    restarts: Annotated[int, Meta(description="restarts of all its containers")]
    rank: Annotated[int | None, Meta(description="rank of the broker with the pod's host name; null without one")]
    broker: Annotated[Literal["up", "down"] | None, Meta(description="state of the broker in Flux; null without one")]


class ClusterBody(msgspec.Struct):
    """The Kubernetes objects of the instance."""

    namespace: Annotated[str, Meta(description="namespace of all objects")]
    minicluster: Annotated[MiniClusterBody | None, Meta(description="the MiniCluster; null for a plain Job")]
    job: Annotated[ClusterJob, Meta(description="the Job")]
    pods: Annotated[list[ClusterPod], Meta(description="the Job's pods")]
    scaling: Annotated[Scaling | None, Meta(description="the last change of size, in progress or completed")]
    updated: Updated


class ScaleBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The new size."""

    size: Annotated[int, Meta(ge=1, le=2**31 - 1, description="number of brokers")]
    timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=7 * 86400,
            description=f"seconds, {AS_TEXT}, to wait for jobs on nodes that are removed; 0: fail if any run",
            extra={"duration": True},
        ),
    ] = 600.0


class ClusterResource:
    """Read and scale the cluster of the instance.

    Args:
        cluster: reads the Kubernetes objects; None without a cluster.
        scaler: changes the size; None without a cluster.
        why: why there is no cluster.
        instance: knows which brokers are up.
        lifecycle: refuses to scale during a stop.
    """

    tag = "cluster"

    def __init__(
        self, cluster: Cluster | None, scaler: Scaler | None, why: str, instance: Instance, lifecycle: Lifecycle
    ) -> None:
        self._cluster = cluster
        self._scaler = scaler
        self._why = why
        self._instance = instance
        self._lifecycle = lifecycle

    @operation("GET", "/v1/cluster", answers=(Answer("The cluster", ClusterBody),), errors=(400, 404, 409, 502, 503))
    async def get(self, request: web.Request) -> ClusterBody:
        """Read the state of the instance's pods from Kubernetes, and that of their brokers from Flux.

        Outside Kubernetes this is 404.
        """
        cluster, scaler = self._required()
        return _body(await cluster.snapshot(), (await self._instance.resources()).nodes, scaler.scaling)

    @operation(
        "POST",
        "/v1/cluster/scale",
        scope="admin",
        body=ScaleBody,
        answers=(Answer("The change has started; GET /v1/cluster shows its progress", Scaling, status=202),),
        errors=(400, 404, 409, 413, 415, 502, 503),
    )
    async def scale(self, request: web.Request, body: ScaleBody) -> web.Response:
        """Change the size of the MiniCluster, within min_size and max_size.

        Nodes that are removed are drained first, and their jobs may finish; if that takes longer than timeout, the size
        does not change, the nodes are undrained, and scaling has failed. A plain Job cannot be scaled: 409.
        """
        _, scaler = self._required()
        audit_details(request, size=body.size)
        if self._lifecycle.state != "running":
            raise Conflict(f"The cluster cannot be scaled: the service is {self._lifecycle.state}.")
        return json_response(await scaler.scale(body.size, body.timeout, caller_of(request).name), status=202)

    def _required(self) -> tuple[Cluster, Scaler]:
        if self._cluster is None or self._scaler is None:
            raise NotFound(self._why)
        return self._cluster, self._scaler


def _body(snapshot: ClusterSnapshot, nodes: Iterable[Node], scaling: Scaling | None) -> ClusterBody:
    brokers = {node.name: node for node in nodes}
    return ClusterBody(
        namespace=snapshot.job.namespace,
        minicluster=_minicluster(snapshot.minicluster) if snapshot.minicluster else None,
        job=_job(snapshot.job),
        pods=[_pod(pod, brokers.get(pod.spec.hostname)) for pod in snapshot.pods],
        scaling=scaling,
        updated=snapshot.updated,
    )


def _minicluster(minicluster: MiniCluster) -> MiniClusterBody:
    metadata, status = minicluster.metadata, minicluster.status
    low, high = minicluster.bounds
    body = MiniClusterStatusBody(status.size, status.maximum_size, _conditions(status.conditions))
    return MiniClusterBody(metadata.name, metadata.namespace, minicluster.spec.size, low, high, body)


def _job(job: Job) -> ClusterJob:
    return ClusterJob(
        name=job.name,
        completions=job.completions,
        parallelism=job.parallelism,
        active=job.active,
        ready=job.ready,
        succeeded=job.succeeded,
        failed=job.failed,
        conditions=_conditions(job.conditions),
    )


def _pod(pod: Pod, node: Node | None) -> ClusterPod:
    status = pod.status
    if status.phase in ("Succeeded", "Failed"):
        node = None  # the broker of that name runs in the pod that has replaced this one
    return ClusterPod(
        name=pod.metadata.name,
        index=pod.index,
        hostname=pod.spec.hostname,
        phase=status.phase,
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions),
        terminating=pod.metadata.deletion_timestamp is not None,
        node=pod.spec.node_name,
        ip=status.pod_ip,
        restarts=sum(container.restart_count for container in status.container_statuses),
        rank=node.rank if node else None,
        broker=None if node is None else "up" if node.up else "down",
    )


def _conditions(conditions: Iterable[Condition]) -> list[ClusterCondition]:
    return [ClusterCondition(each.type, each.status, each.reason, each.message) for each in conditions]
