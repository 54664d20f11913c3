"""Changes of the cluster's size: before pods are deleted their nodes are drained, and their jobs waited for.

The operator and the Job controller delete the pods of the highest indexes, whatever runs there. So a shrink first
drains their ranks, with a reason that :func:`is_ours` recognizes: whichever server scales up later undrains them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import structlog
from msgspec import Meta, Struct, structs

from sidecar.cluster.objects import MiniCluster
from sidecar.domain import idset
from sidecar.domain.errors import Conflict, InvalidRequest, Problem
from sidecar.domain.model import Node
from sidecar.instance import Instance
from sidecar.runtime.tasks import CLOSE_TIMEOUT, Supervised, Supervisor

if TYPE_CHECKING:  # it loads the Kubernetes client, which a server outside Kubernetes does not need
    from sidecar.cluster.cluster import Cluster, ClusterSnapshot

log = structlog.get_logger("scaling")

State = Literal["draining", "settling", "done", "failed"]

_REASON = "flux-sidecar: the cluster is to have"
_POLL = 0.5
_SETTLE_TIMEOUT = 300.0  # the grace period of a pod is 30 s by default
_UNDRAIN_TIMEOUT = 2.0


class Scaling(Struct, kw_only=True):
    """A change of the cluster's size."""

    state: Annotated[
        State,
        Meta(
            description="draining: waits for jobs; settling: the size is changed, pods start or end; done; "
            "failed: see detail, the size is unchanged"
        ),
    ]
    was: Annotated[int, Meta(description="the size before")]
    size: Annotated[int, Meta(description="the requested size")]
    ranks: Annotated[str, Meta(description="idset of the brokers that leave")] = ""
    busy: Annotated[str, Meta(description="idset of those that still run jobs")] = ""
    since: Annotated[float, Meta(description="time of the request, in Unix seconds")]
    deadline: Annotated[float | None, Meta(description="until when jobs are waited for, in Unix seconds")] = None
    by: Annotated[str, Meta(description="name of the caller that requested it")] = ""
    detail: Annotated[str, Meta(description="why it failed; empty otherwise")] = ""


class Scaler:
    """Changes the size, one change at a time.

    Args:
        cluster: changes the MiniCluster's size.
        instance: drains and undrains its nodes.
        tasks: runs each change.
    """

    def __init__(self, cluster: Cluster, instance: Instance, tasks: Supervisor) -> None:
        self._cluster = cluster
        self._instance = instance
        self._tasks = tasks
        self._starting = False
        self._task: Supervised | None = None
        self.scaling: Scaling | None = None
        """The last change, in progress or finished."""

    async def close(self) -> None:
        """Cancel a change in progress, and undrain its nodes where the instance still responds."""
        if self._task:
            await self._task.close(_UNDRAIN_TIMEOUT + CLOSE_TIMEOUT)

    async def scale(self, size: int, timeout: float, by: str) -> Scaling:  # noqa: ASYNC109 - of jobs, not of this call
        """Start a change of the cluster's size.

        Args:
            size: the number of brokers.
            timeout: seconds to wait for jobs on nodes that leave; 0: change the size only where none run.
            by: the caller.

        Raises:
            InvalidRequest: the size is out of bounds.
            Conflict: another change is in progress, there is no MiniCluster, or (with timeout 0) jobs run there.
            Unavailable: the instance, or the API server, does not respond.
            ClusterForbidden: a Role lacks a rule.
        """
        if self._starting or (self.scaling and self.scaling.state == "draining"):
            raise Conflict("Another change of size is in progress: GET /v1/cluster shows its state.")
        self._starting = True
        try:
            await self.close()  # replaces a change that still waits for pods
            return await self._start(size, timeout, by)
        finally:
            self._starting = False

    async def _start(self, size: int, timeout: float, by: str) -> Scaling:  # noqa: ASYNC109
        snapshot = await self._cluster.snapshot(fresh=True)
        minicluster = _scalable(snapshot, size)
        self._instance.status.require_ready()
        was, now = minicluster.spec.size, time.time()
        scaling = Scaling(state="settling", was=was, size=size, since=now, by=by)
        drained: Sequence[int] = ()
        if size < was:
            leaving = await self._nodes(snapshot, size, was)
            scaling = structs.replace(scaling, state="draining", ranks=_ranks(leaving), deadline=now + timeout)
            free = [node.rank for node in leaving if not node.reason and node.state != "drained"]
            drained = free + [node.rank for node in leaving if is_ours(node)]  # those of a cancelled change
            if free:
                await self._instance.drain(free, f"{_REASON} {size} nodes")
            if timeout == 0 and (busy := await self._busy(snapshot, scaling)):
                await self._undo(drained)
                raise Conflict(f"Jobs run on ranks {_ranks(busy)}: give a timeout to wait for them, or cancel them.")
        self.scaling = scaling
        log.info("scale", was=was, size=size, ranks=scaling.ranks, timeout=timeout, by=by)
        self._task = self._tasks.start(
            lambda: self._run(snapshot, minicluster, scaling, drained), "scaling", on_death="note", size=size
        )
        return scaling

    async def _run(
        self, snapshot: ClusterSnapshot, minicluster: MiniCluster, scaling: Scaling, drained: Sequence[int]
    ) -> None:
        changed = False
        try:
            if scaling.state == "draining":
                await self._wait_idle(snapshot, scaling)
            if scaling.size != scaling.was:
                await self._cluster.scale(minicluster, scaling.size)
            changed, scaling.state, scaling.busy = True, "settling", ""
            await self._settle(snapshot, scaling)
        except Problem as exc:
            scaling.detail = exc.detail
            log.error("the change of size has failed", changed=changed, reason=exc.detail)
        finally:
            scaling.state = "done" if changed else "failed"
            if not changed:
                await self._undo(drained)

    async def _wait_idle(self, snapshot: ClusterSnapshot, scaling: Scaling) -> None:
        """Wait until no job runs on brokers that leave.

        Raises:
            Conflict: the deadline has passed.
        """
        assert scaling.deadline is not None  # noqa: S101 - a shrink has one
        timeout = scaling.deadline - scaling.since
        deadline = time.monotonic() + timeout
        while busy := await self._busy(snapshot, scaling):
            scaling.busy = _ranks(busy)
            if time.monotonic() >= deadline:
                raise Conflict(
                    f"Jobs still ran on ranks {scaling.busy} after {timeout:g} s: the size is unchanged, and the nodes "
                    "are undrained."
                )
            await asyncio.sleep(_POLL)

    async def _settle(self, snapshot: ClusterSnapshot, scaling: Scaling) -> None:
        """Undrain the nodes that have left, and those that come back, so that the next growth has working nodes."""
        deadline = time.monotonic() + _SETTLE_TIMEOUT
        staying = {node.rank for node in await self._nodes(snapshot, 0, scaling.size)}
        highest = max(scaling.was, scaling.size)
        while ours := [node for node in await self._nodes(snapshot, 0, highest) if is_ours(node)]:
            pods = (await self._cluster.snapshot()).pods
            terminating = {pod.spec.hostname for pod in pods if pod.metadata.deletion_timestamp}
            back = [node.rank for node in ours if node.rank in staying and node.name not in terminating]
            if ready := [node.rank for node in ours if not node.up or node.rank in back]:
                await self._instance.undrain(ready)
            elif time.monotonic() > deadline:
                scaling.detail = f"The brokers {_ranks(ours)} still run, and are drained."
                return
            else:
                await asyncio.sleep(_POLL)

    async def _undo(self, drained: Sequence[int]) -> None:
        """Undrain what was drained for a change that fails; an instance that ends may not respond."""
        if not drained:
            return
        try:
            async with asyncio.timeout(_UNDRAIN_TIMEOUT):
                await self._instance.undrain(drained)
        except (Problem, TimeoutError) as exc:
            log.warning("nodes stay drained", ranks=idset.encode(drained), reason=str(exc))

    async def _nodes(self, snapshot: ClusterSnapshot, low: int, high: int) -> list[Node]:
        """Return the nodes of the completion indexes from ``low`` up to ``high``, without it and the lead's."""
        names = {f"{snapshot.job.name}-{index}" for index in range(max(low, 1), high)}
        return [node for node in (await self._instance.resources()).nodes if node.name in names and node.rank]

    async def _busy(self, snapshot: ClusterSnapshot, scaling: Scaling) -> list[Node]:
        nodes = await self._nodes(snapshot, scaling.size, scaling.was)
        return [node for node in nodes if node.up and (node.cores_allocated or node.gpus_allocated)]


def is_ours(node: Node) -> bool:
    """Return whether a node was drained for a change of size, by this server or an earlier one."""
    return node.reason.startswith(_REASON)


def _scalable(snapshot: ClusterSnapshot, size: int) -> MiniCluster:
    if snapshot.minicluster is None:
        raise Conflict(f"The Job {snapshot.job.name} belongs to no MiniCluster: a plain Job cannot be scaled.")
    low, high = snapshot.minicluster.bounds
    if not low <= size <= high:
        raise InvalidRequest(
            f"size: this MiniCluster can have {low} to {high} nodes (spec.minSize, spec.maxSize), not {size}."
        )
    return snapshot.minicluster


def _ranks(nodes: Sequence[Node]) -> str:
    return idset.encode([node.rank for node in nodes])
