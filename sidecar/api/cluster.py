"""``/v1/cluster``: the pods, the Job and the MiniCluster that this instance runs in, and their size."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.auth.guard import CALLER
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
    """A condition of an object's status, as Kubernetes has it."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class MiniClusterStatusBody(msgspec.Struct):
    """What the operator says of a MiniCluster."""

    size: Annotated[int, Meta(description="0 until it is resized for the first time")]
    maximum_size: int
    conditions: list[ClusterCondition]


class MiniClusterBody(msgspec.Struct):
    """A MiniCluster of the Flux Operator."""

    name: str
    namespace: str
    size: Annotated[int, Meta(description="how many brokers are wanted")]
    min_size: Annotated[int, Meta(description="the smallest size that it can have")]
    max_size: Annotated[int, Meta(description="the largest size that it can have")]
    status: MiniClusterStatusBody


class ClusterJob(msgspec.Struct):
    """The Kubernetes Job whose pods are the brokers."""

    name: str
    completions: int | None
    parallelism: int | None
    active: int
    ready: int
    succeeded: int
    failed: int
    conditions: list[ClusterCondition]


class ClusterPod(msgspec.Struct):
    """A pod, and the broker in it."""

    name: str
    index: Annotated[int | None, Meta(description="completion index")]
    hostname: str
    phase: str
    ready: bool
    terminating: bool
    node: Annotated[str, Meta(description="the Kubernetes node that it runs on; empty: none yet")]
    ip: str
    restarts: Annotated[int, Meta(description="of all its containers")]
    rank: Annotated[int | None, Meta(description="of the broker with the pod's host name")]
    broker: Annotated[Literal["up", "down"] | None, Meta(description="as Flux sees it; null: it has none")]


class ClusterBody(msgspec.Struct):
    """Where the instance runs; ``updated`` is when this was so, in Unix seconds."""

    namespace: str
    minicluster: Annotated[MiniClusterBody | None, Meta(description="null: the Job is a plain one")]
    job: ClusterJob
    pods: list[ClusterPod]
    scaling: Annotated[Scaling | None, Meta(description="the last change of size, under way or over")]
    updated: float


class ScaleBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Another size."""

    size: Annotated[int, Meta(ge=1, le=2**31 - 1, description="how many brokers there are to be")]
    timeout: Annotated[
        float,
        Meta(
            ge=0,
            le=7 * 86400,
            description=f"seconds, {AS_TEXT}, that jobs on nodes which go are waited for; 0: only where none run",
            extra={"duration": True},
        ),
    ] = 600.0


class ClusterResource:
    """The cluster around the instance.

    Args:
        cluster: is asked; None: there is none.
        scaler: changes its size.
        why: there is none.
        instance: tells which brokers are up.
        lifecycle: nothing is scaled while it stops.
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
        """Read what Kubernetes says of the pods that the instance runs in, and Flux of their brokers.

        Outside Kubernetes this is 404, and says so.
        """
        cluster, scaler = self._parts()
        return _body(await cluster.snapshot(), (await self._instance.resources()).nodes, scaler.scaling)

    @operation(
        "POST",
        "/v1/cluster/scale",
        scope="admin",
        body=ScaleBody,
        answers=(Answer("It has begun; GET /v1/cluster shows its progress", Scaling, status=202),),
        errors=(400, 404, 409, 413, 415, 502, 503),
    )
    async def scale(self, request: web.Request, body: ScaleBody) -> web.Response:
        """Change the size of the MiniCluster, between its smallest and its largest.

        Nodes that go are drained first, and jobs there are waited for; when they take longer than timeout the size
        stays, the nodes are undrained, and scaling says failed. A plain Job keeps its size: 409.
        """
        _, scaler = self._parts()
        audit_details(request, size=body.size)
        if self._lifecycle.state != "running":
            raise Conflict(f"The cluster cannot be scaled: the service is {self._lifecycle.state}.")
        return json_response(await scaler.scale(body.size, body.timeout, request[CALLER].name), status=202)

    def _parts(self) -> tuple[Cluster, Scaler]:
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


def _minicluster(found: MiniCluster) -> MiniClusterBody:
    low, high = found.bounds
    status = MiniClusterStatusBody(found.status.size, found.status.maximum_size, _conditions(found.status.conditions))
    return MiniClusterBody(found.metadata.name, found.metadata.namespace, found.spec.size, low, high, status)


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


def _pod(found: Pod, node: Node | None) -> ClusterPod:
    status = found.status
    if status.phase in ("Succeeded", "Failed"):
        node = None  # the broker of that name is in the pod that came after it
    return ClusterPod(
        name=found.metadata.name,
        index=found.index,
        hostname=found.spec.hostname,
        phase=status.phase,
        ready=any(condition.type == "Ready" and condition.status == "True" for condition in status.conditions),
        terminating=found.metadata.deletion_timestamp is not None,
        node=found.spec.node_name,
        ip=status.pod_ip,
        restarts=sum(container.restart_count for container in status.container_statuses),
        rank=node.rank if node else None,
        broker=None if node is None else "up" if node.up else "down",
    )


def _conditions(found: Iterable[Condition]) -> list[ClusterCondition]:
    return [ClusterCondition(each.type, each.status, each.reason, each.message) for each in found]
