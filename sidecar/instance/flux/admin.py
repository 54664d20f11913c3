"""What an operator asks of a Flux instance: signals, urgencies, queues, nodes.

:class:`~sidecar.instance.flux.FluxInstance` is built on this class, which only sends requests.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from sidecar.domain import fluid, idset, jobspec
from sidecar.domain.errors import Conflict, Ended, NotFound
from sidecar.domain.model import ANONYMOUS, Queue, Queues, Resources
from sidecar.instance.base import Status
from sidecar.instance.flux.cache import CachedAnswer
from sidecar.instance.flux.nodes import nodes


class FluxAdmin(ABC):
    """Requests to rank 0 that need no more than an answer."""

    status: Status

    def __init__(self) -> None:
        self._resources = CachedAnswer("resources", self._ask_resources, Resources([]))
        self._queues = CachedAnswer("queues", self._ask_queues, Queues([]))

    @abstractmethod
    async def _rpc(self, topic: str, payload: Any = None) -> Any:
        """Send a request to rank 0 and return its answer.

        Raises:
            OSError: Flux's error, with its own words.
            Unavailable: no answer in time, or no connection.
        """

    # ---------------------------------------------------------------------------------------------------- jobs

    async def send_signal(self, jobid: int, signum: int) -> None:
        """Signal a running job; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require_ready()
        try:
            await self._rpc("job-manager.kill", {"id": jobid, "signum": signum})
        except OSError as exc:
            raise refused(exc, jobid, "signalled") from None

    async def set_urgency(self, jobid: int, urgency: int) -> int:
        """Change a pending job's urgency; see :class:`~sidecar.instance.base.Instance`."""
        self.status.require_ready()
        try:
            answer = await self._rpc("job-manager.urgency", {"id": jobid, "urgency": urgency})
        except OSError as exc:
            raise refused(exc, jobid, "reprioritized") from None
        return int(answer["old_urgency"])

    # --------------------------------------------------------------------------------------------------- nodes

    async def resources(self) -> Resources:
        """Return the nodes; see :class:`~sidecar.instance.base.Instance`."""
        return await self._resources.get() if self.status.connection == "ready" else self._resources.known

    async def _ask_resources(self) -> Resources:
        sched, status = await asyncio.gather(self._rpc("resource.sched-status"), self._rpc("resource.status"))
        found = nodes(sched, status)
        return Resources(found.nodes, time.time(), found.lost)

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Drain nodes; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_nodes("drain", ranks, {"reason": reason} if reason else {})

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Undrain nodes; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_nodes("undrain", ranks, {})

    async def _change_nodes(self, verb: str, ranks: Sequence[int], more: Mapping[str, str]) -> None:
        self.status.require_ready()
        try:
            await self._rpc(f"resource.{verb}", {"targets": idset.encode(ranks), **more})
        except OSError as exc:
            raise Conflict(f"The node cannot be {verb}ed: {exc.strerror}.") from None
        await self._resources.renew()

    # -------------------------------------------------------------------------------------------------- queues

    async def queues(self) -> Queues:
        """Return the queues; see :class:`~sidecar.instance.base.Instance`."""
        return await self._queues.get() if self.status.connection == "ready" else self._queues.known

    async def _ask_queues(self) -> Queues:
        names = sorted((await self._rpc("job-manager.queue-list"))["queues"])  # Flux has no order of them
        if not names:
            status = await self._rpc("job-manager.queue-status", {})
            return Queues([_queue(ANONYMOUS, status, default=True)], time.time(), anonymous=True)
        config, *found = await asyncio.gather(
            self._rpc("config.get"), *(self._rpc("job-manager.queue-status", {"name": name}) for name in names)
        )
        default = jobspec.get(config, "policy.jobspec.defaults.system.queue")
        queues = [_queue(name, status, default=name == default) for name, status in zip(names, found, strict=True)]
        return Queues(queues, time.time())

    async def start_queue(self, name: str) -> None:
        """Start a queue; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_queue(name, {"start": True})

    async def stop_queue(self, name: str, reason: str) -> None:
        """Stop a queue; see :class:`~sidecar.instance.base.Instance`."""
        await self._change_queue(name, {"start": False, **({"reason": reason} if reason else {})})

    async def _change_queue(self, name: str, request: Mapping[str, Any]) -> None:
        self.status.require_ready()
        which = {} if self._queues.known.anonymous else {"name": name}
        try:
            await self._rpc("job-manager.queue-start", {**request, **which, "all": False, "nocheckpoint": False})
        except OSError as exc:
            verb = "started" if request["start"] else "stopped"
            raise Conflict(f"The queue cannot be {verb}: {exc.strerror}.") from None
        await self._queues.renew()


def _queue(name: str, status: Mapping[str, Any], *, default: bool) -> Queue:
    return Queue(
        name=name,
        enabled=bool(status["enable"]),
        enabled_reason=str(status.get("disable_reason", "")),
        started=bool(status["start"]),
        started_reason=str(status.get("stop_reason", "")),
        default=default,
    )


def refused(exc: OSError, jobid: int, what: str) -> NotFound | Conflict:
    """Tell an unknown job from one in the wrong state: Flux has one number for both, and differs in its words."""
    if "unknown job" in str(exc.strerror):
        return NotFound(f"Flux knows no job {fluid.f58(jobid)}: {exc.strerror}.")
    kind = Ended if "inactive" in str(exc.strerror) else Conflict
    return kind(f"Job cannot be {what}: {exc.strerror}.")
