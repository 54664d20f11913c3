"""Another size for the cluster: nodes that are to go are drained and waited for, before anybody takes their pods away.

The operator and the Job controller take away the pods of the highest indexes, whatever runs there. So a shrink drains
their ranks first, with a reason that :func:`is_ours` tells from everybody else's: whoever scales up later, this server
or the one after it, knows which nodes to undrain.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Literal

import structlog
from msgspec import Meta, Struct, structs

from sidecar.cluster.cluster import Cluster, ClusterSnapshot
from sidecar.cluster.objects import MiniCluster
from sidecar.domain import idset
from sidecar.domain.errors import Conflict, InvalidRequest, Problem
from sidecar.domain.model import Node
from sidecar.instance import Instance
from sidecar.runtime.tasks import CLOSE_TIMEOUT, Supervised, Supervisor

log = structlog.get_logger("scaling")

State = Literal["draining", "settling", "done", "failed"]

_REASON = "flux-sidecar: the cluster is to have"
_POLL = 0.5
_SETTLE = 300.0  # the grace period of a pod is 30 s as a rule
_UNDO = 2.0


class Scaling(Struct, kw_only=True):
    """A change of the cluster's size."""

    state: Annotated[
        State,
        Meta(
            description="draining: jobs are waited for; settling: the size is changed, pods go or come; "
            "failed: see detail, and the size is as it was"
        ),
    ]
    was: Annotated[int, Meta(description="the size before")]
    size: Annotated[int, Meta(description="the size that is wanted")]
    ranks: Annotated[str, Meta(description="idset of the brokers that go")] = ""
    busy: Annotated[str, Meta(description="idset of those where jobs still run")] = ""
    since: Annotated[float, Meta(description="when it was asked for, in Unix seconds")]
    deadline: Annotated[float | None, Meta(description="until when jobs are waited for, in Unix seconds")] = None
    by: Annotated[str, Meta(description="who has asked for it")] = ""
    detail: str = ""


class Scaler:
    """Changes the size, one change at a time.

    Args:
        cluster: is given another size.
        instance: whose nodes are drained and undrained.
        tasks: runs each change.
    """

    def __init__(self, cluster: Cluster, instance: Instance, tasks: Supervisor) -> None:
        self._cluster = cluster
        self._instance = instance
        self._tasks = tasks
        self._beginning = False
        self._task: Supervised | None = None
        self.scaling: Scaling | None = None
        """The last change, under way or over."""

    async def close(self) -> None:
        """Give up what is under way: nodes that were drained for it are undrained, where the instance still answers."""
        if self._task:
            await self._task.close(_UNDO + CLOSE_TIMEOUT)

    async def scale(self, size: int, patience: float, by: str) -> Scaling:
        """Begin to give the cluster another size.

        Args:
            size: how many brokers it is to have.
            patience: how many seconds jobs on nodes that go are waited for; 0: the size changes only where none run.
            by: who asks.

        Raises:
            InvalidRequest: the size is out of bounds.
            Conflict: another change is under way, there is no MiniCluster, or (with patience 0) jobs run there.
            Unavailable: the instance, or the API server, is not there.
            ClusterRefuses: a Role does not let this server do it.
        """
        if self._beginning or (self.scaling and self.scaling.state == "draining"):
            raise Conflict("The cluster is being scaled: GET /v1/cluster shows how far it is.")
        self._beginning = True
        try:
            await self.close()  # where pods still come and go after the last change: this one is the newer wish
            return await self._begin(size, patience, by)
        finally:
            self._beginning = False

    async def _begin(self, size: int, patience: float, by: str) -> Scaling:
        view = await self._cluster.look(again=True)
        minicluster = _scalable(view, size)
        self._instance.status.require_ready()
        was, now = minicluster.spec.size, time.time()
        scaling = Scaling(state="settling", was=was, size=size, since=now, by=by)
        drained: Sequence[int] = ()
        if size < was:
            leaving = await self._nodes(view, size, was)
            scaling = structs.replace(scaling, state="draining", ranks=_ranks(leaving), deadline=now + patience)
            free = [node.rank for node in leaving if not node.reason and node.state != "drained"]
            drained = free + [node.rank for node in leaving if is_ours(node)]  # those of a change that was given up
            if free:
                await self._instance.drain(free, f"{_REASON} {size} nodes")
            if patience == 0 and (busy := await self._busy(view, scaling)):
                await self._undo(drained)
                raise Conflict(f"Jobs run on ranks {_ranks(busy)}, and no time was given to wait for them (timeout).")
        self.scaling = scaling
        log.info("scale", was=was, size=size, ranks=scaling.ranks, timeout=patience, by=by)
        self._task = self._tasks.start(
            lambda: self._run(view, minicluster, scaling, drained), "scaling", on_death="note", size=size
        )
        return scaling

    async def _run(
        self, view: ClusterSnapshot, minicluster: MiniCluster, scaling: Scaling, drained: Sequence[int]
    ) -> None:
        changed = False
        try:
            if scaling.state == "draining":
                await self._idle(view, scaling)
            if scaling.size != scaling.was:
                await self._cluster.scale(minicluster, scaling.size)
            changed, scaling.state, scaling.busy = True, "settling", ""
            await self._settle(view, scaling)
        except Problem as exc:
            scaling.detail = exc.detail
            log.error("the change of size did not go as it should", changed=changed, reason=exc.detail)
        finally:
            scaling.state = "done" if changed else "failed"
            if not changed:
                await self._undo(drained)

    async def _idle(self, view: ClusterSnapshot, scaling: Scaling) -> None:
        """Wait until no job runs where brokers go.

        Raises:
            Conflict: the deadline has passed.
        """
        assert scaling.deadline is not None  # noqa: S101 - a shrink has one
        patience = scaling.deadline - scaling.since
        deadline = time.monotonic() + patience
        while busy := await self._busy(view, scaling):
            scaling.busy = _ranks(busy)
            if time.monotonic() >= deadline:
                raise Conflict(
                    f"Jobs still ran on ranks {scaling.busy} after {patience:g} s: the size is "
                    "as it was, and the nodes are no longer drained."
                )
            await asyncio.sleep(_POLL)

    async def _settle(self, view: ClusterSnapshot, scaling: Scaling) -> None:
        """Undrain what has gone and what comes back: whoever scales up next, by whichever way, gets nodes that work."""
        deadline = time.monotonic() + _SETTLE
        staying = {node.rank for node in await self._nodes(view, 0, scaling.size)}
        while ours := [node for node in await self._nodes(view, 0, max(scaling.was, scaling.size)) if is_ours(node)]:
            dying = {pod.spec.hostname for pod in (await self._cluster.look()).pods if pod.metadata.deletion_timestamp}
            back = [node.rank for node in ours if node.rank in staying and node.name not in dying]
            if ready := [node.rank for node in ours if not node.up or node.rank in back]:
                await self._instance.undrain(ready)
            elif time.monotonic() > deadline:
                scaling.detail = f"The brokers {_ranks(ours)} are still there, and drained."
                return
            else:
                await asyncio.sleep(_POLL)

    async def _undo(self, drained: Sequence[int]) -> None:
        """Undrain what was drained for a change that does not come; at the end of an instance nobody can."""
        if not drained:
            return
        try:
            async with asyncio.timeout(_UNDO):
                await self._instance.undrain(drained)
        except (Problem, TimeoutError) as exc:
            log.warning("nodes stay drained", ranks=idset.encode(drained), reason=str(exc))

    async def _nodes(self, view: ClusterSnapshot, low: int, high: int) -> list[Node]:
        """Return the nodes of the completion indexes from ``low`` on and below ``high``; never the lead's."""
        names = {f"{view.job.metadata.name}-{index}" for index in range(max(low, 1), high)}
        return [node for node in (await self._instance.resources()).nodes if node.name in names and node.rank]

    async def _busy(self, view: ClusterSnapshot, scaling: Scaling) -> list[Node]:
        nodes = await self._nodes(view, scaling.size, scaling.was)
        return [node for node in nodes if node.up and (node.cores_allocated or node.gpus_allocated)]


def is_ours(node: Node) -> bool:
    """Whether a node was drained for a change of size, by this server or one before it."""
    return node.reason.startswith(_REASON)


def _scalable(view: ClusterSnapshot, size: int) -> MiniCluster:
    if view.minicluster is None:
        raise Conflict(
            f"The Job {view.job.metadata.name} belongs to no MiniCluster: a plain Job cannot be scaled from here."
        )
    low, high = view.minicluster.bounds
    if not low <= size <= high:
        raise InvalidRequest(
            f"size: this MiniCluster can have {low} to {high} nodes (spec.minSize, spec.maxSize), not {size}."
        )
    return view.minicluster


def _ranks(nodes: Sequence[Node]) -> str:
    return idset.encode([node.rank for node in nodes])
