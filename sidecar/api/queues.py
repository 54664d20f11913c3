"""``/v1/queues``: list, start, stop."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api import fresh
from sidecar.api.fields import Updated
from sidecar.domain.errors import NotFound
from sidecar.domain.model import Queue, Queues
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.store import Store

_ERRORS = (400, 404, 409, 413, 415, 503)


class QueueCounts(msgspec.Struct):
    """Number of active jobs of a queue by state."""

    new: Annotated[int, Meta(description="jobs in state NEW")] = 0
    depend: Annotated[int, Meta(description="jobs in state DEPEND")] = 0
    priority: Annotated[int, Meta(description="jobs in state PRIORITY")] = 0
    sched: Annotated[int, Meta(description="jobs in state SCHED, held ones included")] = 0
    run: Annotated[int, Meta(description="jobs in state RUN")] = 0
    cleanup: Annotated[int, Meta(description="jobs in state CLEANUP")] = 0


class QueueBody(Queue, kw_only=True):
    """A queue and its jobs."""

    counts: Annotated[QueueCounts, Meta(description="number of active jobs by state")]


class QueueList(msgspec.Struct):
    """All queues."""

    queues: Annotated[list[QueueBody], Meta(description="the queues; one without a name is called default")]
    updated: Updated


class StopQueueBody(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a stop."""

    reason: Annotated[str, Meta(max_length=1000, description="shown with the queue while it is stopped")] | None = None


class QueueResource:
    """List, start and stop queues.

    Args:
        store: counts the jobs.
        feed: the journal, which has the barrier for reads.
        instance: has the queues.
    """

    tag = "queues"

    def __init__(self, store: Store, feed: Feed, instance: Instance) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance

    @operation("GET", "/v1/queues", answers=(Answer("All queues", QueueList),), errors=(400,))
    async def list(self, request: web.Request) -> QueueList:
        """List queues: whether each accepts and starts jobs, and how many jobs it has in each state.

        An instance without named queues has a single one, which is called default here.
        """
        await fresh.settle(request, self._feed)
        queues = await self._instance.queues()
        return QueueList([*await self._bodies(queues)], queues.updated)

    @operation(
        "POST",
        "/v1/queues/{name}/start",
        scope="admin",
        body=NoParameters,
        answers=(Answer("The queue is started", QueueBody),),
        errors=_ERRORS,
    )
    async def start(self, request: web.Request, name: str, body: Any) -> QueueBody:
        """Start a queue: its pending jobs are started."""
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
        """Stop a queue: its pending jobs are not started; running jobs continue, and new jobs are accepted."""
        await self._require(name)
        await self._instance.stop_queue(name, body.reason or "")
        return await self._body(name)

    async def _require(self, name: str) -> None:
        self._instance.status.require_ready()
        _find(await self._instance.queues(), name)

    async def _body(self, name: str) -> QueueBody:
        queues = await self._instance.queues()
        (body,) = await self._bodies(msgspec.structs.replace(queues, queues=[_find(queues, name)]))
        return body

    async def _bodies(self, queues: Queues) -> tuple[QueueBody, ...]:
        counts = await self._store.counts.by_queue()
        return tuple(
            QueueBody(**msgspec.structs.asdict(queue), counts=_counts(counts.get(_stored(queue.name, queues), {})))
            for queue in queues.queues
        )


def _stored(name: str, queues: Queues) -> str:
    """Return the name under which the store has a queue's jobs: empty for Flux's anonymous queue."""
    return "" if queues.anonymous else name


def _counts(states: dict[str, int]) -> QueueCounts:
    return QueueCounts(**{state.lower(): count for state, count in states.items()})


def _find(queues: Queues, name: str) -> Queue:
    for queue in queues.queues:
        if queue.name == name:
            return queue
    names = ", ".join(queue.name for queue in queues.queues) or "none"
    raise NotFound(f"There is no queue {name!r}; the queues are: {names}.")
