"""The nodes and queues of a Flux instance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.domain import idset, jobspec
from sidecar.domain.errors import Conflict
from sidecar.domain.model import ANONYMOUS, Queue, Queues, Resources
from sidecar.instance.flux import nodes
from sidecar.instance.flux.cache import CachedAnswer
from sidecar.instance.flux.client import FluxClient


class FluxAdmin:
    """Lists and changes nodes and queues.

    Args:
        client: sends the requests.
    """

    def __init__(self, client: FluxClient) -> None:
        self._client = client
        self._resources = CachedAnswer("resources", self._request_resources, Resources([]))
        self._queues = CachedAnswer("queues", self._request_queues, Queues([]))

    def clear(self) -> None:
        """Discard the known nodes and queues: the connection may be to another instance."""
        self._resources.clear()
        self._queues.clear()

    # --------------------------------------------------------------------------------------------------- nodes

    @property
    def known_resources(self) -> Resources:
        """The last known nodes, of any age."""
        return self._resources.last

    async def resources(self) -> Resources:
        """Return the nodes; see :class:`~sidecar.instance.base.Instance`."""
        return await self._resources.get() if self._ready else self._resources.last

    async def _request_resources(self) -> Resources:
        rpc = self._client.rpc
        inventory = nodes.decode(*await asyncio.gather(rpc("resource.sched-status"), rpc("resource.status")))
        return Resources(inventory.nodes, time.time(), inventory.lost)

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Drain nodes; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_nodes("drain", ranks, {"reason": reason} if reason else {})

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Undrain nodes; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_nodes("undrain", ranks, {})

    async def _change_nodes(self, verb: str, ranks: Sequence[int], arguments: Mapping[str, str]) -> None:
        self._client.status.require_ready()
        try:
            await self._client.rpc(f"resource.{verb}", {"targets": idset.encode(ranks), **arguments})
        except OSError as exc:
            raise Conflict(f"The node cannot be {verb}ed: {exc.strerror}.") from None
        await self._resources.renew()

    # -------------------------------------------------------------------------------------------------- queues

    async def queues(self) -> Queues:
        """Return the queues; see :class:`~sidecar.instance.base.Instance`."""
        return await self._queues.get() if self._ready else self._queues.last

    async def _request_queues(self) -> Queues:
        rpc = self._client.rpc
        names = sorted((await rpc("job-manager.queue-list"))["queues"])  # Flux returns them in no order
        if not names:
            status = await rpc("job-manager.queue-status", {})
            return Queues([_queue(ANONYMOUS, status, default=True)], time.time(), anonymous=True)
        config, *statuses = await asyncio.gather(
            rpc("config.get"), *(rpc("job-manager.queue-status", {"name": name}) for name in names)
        )
        default = jobspec.get(config, "policy.jobspec.defaults.system.queue")
        queues = [_queue(name, status, default=name == default) for name, status in zip(names, statuses, strict=True)]
        return Queues(queues, time.time())

    async def start_queue(self, name: str) -> None:
        """Start a queue; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_queue(name, {"start": True})

    async def stop_queue(self, name: str, reason: str) -> None:
        """Stop a queue; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_queue(name, {"start": False, **({"reason": reason} if reason else {})})

    async def _change_queue(self, name: str, arguments: Mapping[str, Any]) -> None:
        self._client.status.require_ready()
        queue = {} if self._queues.last.anonymous else {"name": name}
        request = {**arguments, **queue, "all": False, "nocheckpoint": False}
        try:
            await self._client.rpc("job-manager.queue-start", request)
        except OSError as exc:
            verb = "started" if arguments["start"] else "stopped"
            raise Conflict(f"The queue cannot be {verb}: {exc.strerror}.") from None
        await self._queues.renew()

    @property
    def _ready(self) -> bool:
        return self._client.status.connection == "ready"


def _queue(name: str, status: Mapping[str, Any], *, default: bool) -> Queue:
    return Queue(
        name=name,
        enabled=bool(status["enable"]),
        enabled_reason=str(status.get("disable_reason", "")),
        started=bool(status["start"]),
        started_reason=str(status.get("stop_reason", "")),
        default=default,
    )
