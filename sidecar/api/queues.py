"""``/v1/queues``: how many jobs wait in each, and whether they are started."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api import fresh
from sidecar.domain.errors import NotFound
from sidecar.domain.model import Queue, Queues
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.store import Store

_ERRORS = (400, 404, 409, 413, 415, 503)


class QueueCounts(msgspec.Struct):
    """Jobs of a queue by state. Held jobs are in ``sched``, as with Flux; inactive ones are not counted."""

    new: int = 0
    depend: int = 0
    priority: int = 0
    sched: int = 0
    run: int = 0
    cleanup: int = 0


class QueueBody(Queue, kw_only=True):
    """A queue, and how many jobs are in it."""

    counts: QueueCounts


class QueueList(msgspec.Struct):
    """All queues; ``updated`` is when their status was so, in Unix seconds."""

    queues: list[QueueBody]
    updated: float


class StopQueueBody(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said with a stop."""

    reason: (
        Annotated[str, Meta(max_length=1000, description="shown with the queue for as long as it is stopped")] | None
    ) = None


class QueueResource:
    """The queues of the instance. One without a name is called default."""

    tag = "queues"

    def __init__(self, store: Store, feed: Feed, instance: Instance) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance

    @operation("GET", "/v1/queues", answers=(Answer("All queues", QueueList),), errors=(400,))
    async def list(self, request: web.Request) -> QueueList:
        """List queues: what is submitted to and started from each, and how many jobs it has in each state.

        An instance without named queues has one, which is called default here.
        """
        await fresh.settle(request, self._feed)
        known = await self._instance.queues()
        return QueueList([*await self._bodies(known)], known.updated)

    @operation(
        "POST",
        "/v1/queues/{name}/start",
        scope="admin",
        body=NoParameters,
        answers=(Answer("The queue is started", QueueBody),),
        errors=_ERRORS,
    )
    async def start(self, request: web.Request, name: str, body: Any) -> QueueBody:
        """Start a queue: its pending jobs are started from now on."""
        await self._require(name)
        await self._instance.start_queue(name)
        return await self._body(name)

    @operation(
        "POST",
        "/v1/queues/{name}/stop",
        scope="admin",
        body=StopQueueBody,
        answers=(Answer("The queue is stopped", QueueBody),),
        errors=_ERRORS,
    )
    async def stop(self, request: web.Request, name: str, body: StopQueueBody) -> QueueBody:
        """Stop a queue: none of its pending jobs is started; running ones go on, and new ones are taken."""
        await self._require(name)
        await self._instance.stop_queue(name, body.reason or "")
        return await self._body(name)

    async def _require(self, name: str) -> None:
        self._instance.status.require_ready()
        _find(await self._instance.queues(), name)

    async def _body(self, name: str) -> QueueBody:
        known = await self._instance.queues()
        (body,) = await self._bodies(msgspec.structs.replace(known, queues=[_find(known, name)]))
        return body

    async def _bodies(self, known: Queues) -> tuple[QueueBody, ...]:
        counts = await self._store.counts.by_queue()
        return tuple(
            QueueBody(**msgspec.structs.asdict(queue), counts=_counts(counts.get(_stored(queue.name, known), {})))
            for queue in known.queues
        )


def _stored(name: str, known: Queues) -> str:
    """Return the name under which the store has a queue's jobs: those of Flux's anonymous queue have none."""
    return "" if known.anonymous else name


def _counts(states: dict[str, int]) -> QueueCounts:
    return QueueCounts(**{state.lower(): count for state, count in states.items()})


def _find(known: Queues, name: str) -> Queue:
    for queue in known.queues:
        if queue.name == name:
            return queue
    names = ", ".join(queue.name for queue in known.queues) or "none"
    raise NotFound(f"There is no queue {name!r}; there is: {names}.")
