"""``/v1/nodes``: list, drain, undrain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.domain.errors import NotFound
from sidecar.domain.model import Node
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.instance import Instance

_ERRORS = (400, 404, 409, 413, 415, 503)
_SHOWN = 10


class NodesQuery(msgspec.Struct, kw_only=True, frozen=True):
    """How to list nodes."""

    details: Annotated[bool | None, Meta(description="state, cores and gpus of each node, not its name alone")] = None


class NodeNames(msgspec.Struct):
    """The names of the nodes that are up."""

    nodes: list[str]


class NodeDetails(msgspec.Struct):
    """Every node, up or down; ``updated`` is when this was so, in Unix seconds."""

    nodes: list[Node]
    updated: float


class DrainBody(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said with a drain."""

    reason: (
        Annotated[str, Meta(max_length=1000, description="shown with the node for as long as it is drained")] | None
    ) = None


class Nodes:
    """The nodes of the instance."""

    tag = "nodes"

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    @operation(
        "GET",
        "/v1/nodes",
        query=NodesQuery,
        answers=(Answer("Names, or with details=true all about each node", NodeNames | NodeDetails),),
        errors=(400,),
    )
    async def list(self, request: web.Request, query: NodesQuery) -> Any:
        """List nodes."""
        resources = await self._instance.resources()
        if query.details:
            return NodeDetails(resources.nodes, resources.updated)
        return NodeNames(list(dict.fromkeys(node.name for node in resources.nodes if node.up)))

    @operation(
        "POST",
        "/v1/nodes/{name}/drain",
        scope="admin",
        body=DrainBody,
        answers=(Answer("The nodes that are drained now", NodeDetails),),
        errors=_ERRORS,
    )
    async def drain(self, request: web.Request, name: str, body: DrainBody) -> NodeDetails:
        """Drain a node: no more jobs are started there; running ones go on.

        The name is that of a host, with all its ranks; or, where no host is called so, a rank.
        """
        ranks = await self._ranks(name)
        await self._instance.drain(ranks, body.reason or "")
        return await self._details(ranks)

    @operation(
        "POST",
        "/v1/nodes/{name}/undrain",
        scope="admin",
        body=NoParameters,
        answers=(Answer("The nodes that are no longer drained", NodeDetails),),
        errors=_ERRORS,
    )
    async def undrain(self, request: web.Request, name: str, body: Any) -> NodeDetails:
        """Undrain a node: jobs are started there again."""
        ranks = await self._ranks(name)
        await self._instance.undrain(ranks)
        return await self._details(ranks)

    async def _ranks(self, name: str) -> tuple[int, ...]:
        self._instance.status.require_ready()
        nodes = (await self._instance.resources()).nodes
        ranks = tuple(node.rank for node in nodes if node.name == name)
        ranks = ranks or tuple(node.rank for node in nodes if str(node.rank) == name)
        if not ranks:
            names = _some(node.name for node in nodes)
            raise NotFound(f"There is no node {name!r}; there is: {names}.")
        return ranks

    async def _details(self, ranks: tuple[int, ...]) -> NodeDetails:
        resources = await self._instance.resources()
        return NodeDetails([node for node in resources.nodes if node.rank in ranks], resources.updated)


def _some(found: Iterable[str]) -> str:
    names = tuple(dict.fromkeys(found))
    more = f" … ({len(names)} in all)" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more or "none"
