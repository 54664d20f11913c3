"""``GET /v1/nodes``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.routing import Answer, operation
from sidecar.instance import Instance
from sidecar.model import Node


class NodesQuery(msgspec.Struct, kw_only=True):
    """How to list nodes."""

    details: Annotated[bool | None, Meta(description="state, cores and gpus of each node, not its name alone")] = None


class NodeNames(msgspec.Struct):
    """The names of the nodes that are up."""

    nodes: list[str]


class NodeDetails(msgspec.Struct):
    """Every node, up or down; ``updated`` is when this was so, in Unix seconds."""

    nodes: list[Node]
    updated: float


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
