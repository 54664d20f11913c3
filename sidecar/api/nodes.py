"""``/v1/nodes``: list, drain, undrain."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.fields import Updated
from sidecar.domain.model import Node
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.instance import Instance
from sidecar.services.node_admin import NodeAdmin

_ERRORS = (400, 404, 409, 413, 415, 503)


class NodesQuery(msgspec.Struct, kw_only=True, frozen=True):
    """The form of the list."""

    details: Annotated[
        bool | None, Meta(description="include state, cores and GPUs of each node, instead of its name alone")
    ] = None


class NodeNames(msgspec.Struct):
    """The names of the nodes that are up."""

    nodes: Annotated[list[str], Meta(description="host names, each once")]


class NodeDetails(msgspec.Struct):
    """Nodes with their state and resources."""

    nodes: Annotated[list[Node], Meta(description="all nodes, up or down; after a change those that it affected")]
    updated: Updated


class DrainBody(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a drain."""

    reason: Annotated[str, Meta(max_length=1000, description="shown with the node while it is drained")] | None = None


class Nodes:
    """List, drain and undrain nodes.

    Args:
        instance: has the nodes.
        admin: changes them.
    """

    tag = "nodes"

    def __init__(self, instance: Instance, admin: NodeAdmin) -> None:
        self._instance = instance
        self._admin = admin

    @operation(
        "GET",
        "/v1/nodes",
        query=NodesQuery,
        answers=(Answer("Names, or with details=true all about each node", NodeNames | NodeDetails),),
        errors=(400,),
    )
    async def list(self, request: web.Request, query: NodesQuery) -> NodeNames | NodeDetails:
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
        """Drain a node: no more jobs start there; running jobs continue.

        The name is a host name, for all ranks on that host; where no host has this name, it is a rank.
        """
        return await self._details(await self._admin.drain(name, body.reason or ""))

    @operation(
        "POST",
        "/v1/nodes/{name}/undrain",
        scope="admin",
        body=NoParameters,
        answers=(Answer("The nodes that are no longer drained", NodeDetails),),
        errors=_ERRORS,
    )
    async def undrain(self, request: web.Request, name: str, body: Any) -> NodeDetails:
        """Undrain a node: jobs start there again."""
        return await self._details(await self._admin.undrain(name))

    async def _details(self, ranks: tuple[int, ...]) -> NodeDetails:
        resources = await self._instance.resources()
        return NodeDetails([node for node in resources.nodes if node.rank in ranks], resources.updated)
