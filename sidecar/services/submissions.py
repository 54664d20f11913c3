"""The way of a job into the instance: once, however often its submit is repeated under one idempotency key.

The key travels in the jobspec, and comes back from Flux's journal. So it is known whoever asks, in this server's life
or the next one's: a server that was killed between Flux's acceptance and its own answer finds the job in the history.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import msgspec
import structlog

from sidecar.auth.caller import Caller
from sidecar.domain import fluid, jobspec, submitters
from sidecar.domain.errors import Conflict, IdempotencyKeyReused, InvalidRequest, ResponseTimeout, Unavailable
from sidecar.domain.job_request import JobRequest
from sidecar.domain.model import ANONYMOUS, DEFAULT_URGENCY
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.budget import Budget
from sidecar.store import Store

log = structlog.get_logger("submit")

_LONGEST_KEY = 255
_RETRY_AFTER = 1
_SENT = 8 * 1024 * 1024  # bytes of jobs that the instance has not answered yet: a broker does nothing else meanwhile
_LOOKED_AT = 8  # more than are added, so the keys that are kept become fewer
_KEPT = 3600.0  # seconds that a key is remembered of which the store hears nothing: Flux has purged its job, say


class _Noted(NamedTuple):
    job: int
    request: str
    since: float


class Accepted(msgspec.Struct):
    """A job that the instance has accepted, now or (``replayed``) when its key was used first."""

    id: int
    f58id: str
    replayed: bool = False


class Submissions:
    """Hands requests to the instance.

    Args:
        instance: takes the jobs.
        feed: is told which jobs to expect.
        store: knows the keys of all jobs that were told of.
        option_flags: shell options of every job; those of the request win.
    """

    def __init__(self, instance: Instance, feed: Feed, store: Store, option_flags: dict[str, Any]) -> None:
        self._instance = instance
        self._feed = feed
        self._store = store
        self._option_flags = option_flags
        self._sent = Budget(_SENT, "jobs that Flux has not taken up", "")
        self._in_flight: set[str] = set()
        self._accepted: dict[str, _Noted] = {}
        self._generation = feed.tail.generation

    async def build(self, request: JobRequest, caller: Caller) -> dict[str, Any]:
        """Return the jobspec of a caller's request.

        Raises:
            Forbidden: it overtakes others, which the caller may not.
            InvalidRequest: the request contradicts itself.
        """
        caller.require_urgency(request.urgency)
        if request.queue == ANONYMOUS and (await self._instance.queues()).anonymous:
            request = msgspec.structs.replace(request, queue=None)  # it is called so, and Flux knows no name of it
        spec = jobspec.build(request, await self._instance.environment(), self._option_flags)
        if caller.name:
            submitters.mark(spec, submitter=caller.name)
        return spec

    async def submit(self, request: JobRequest, key: str | None, caller: Caller) -> Accepted:
        """Submit a job, or find the one that was submitted with this key.

        Raises:
            InvalidRequest: the request contradicts itself, or the key cannot be one.
            Forbidden: it overtakes others, which the caller may not.
            KeyReused: the key was used for another request.
            Conflict: a submit with this key is under way.
            Rejected: the instance refused the job.
            Unavailable: the instance is not there, or what was accepted before is not stored in time; with a key it is
                safe to ask again.
        """
        urgency = DEFAULT_URGENCY if request.urgency is None else request.urgency
        if key is None:
            prepared = jobspec.prepared(await self.build(request, caller))
            size = prepared.weight
            async with self._feed.barrier.admit(size), self._turn(size):
                job = await self._instance.submit(prepared, urgency)
                self._feed.barrier.note_accepted(job, caller.name, size)
            return Accepted(job, fluid.f58(job))
        check_key(key)
        if len(caller.name) > submitters.LONGEST_KEY:
            raise InvalidRequest(
                f"Idempotency-Key: the name of this caller has more than {submitters.LONGEST_KEY} characters, with "
                "which no key can be kept; leave the key out."
            )
        asked = digest(request)
        prepared = jobspec.prepared(submitters.mark(await self.build(request, caller), key=key, request=asked))
        return await self._once(prepared, urgency, submitters.scoped_key(key, caller.name), asked, caller.name)

    @asynccontextmanager
    async def _turn(self, size: int) -> AsyncIterator[None]:
        """Wait until the instance has answered so much of what was sent before that it takes up the next job soon."""
        with self._sent.hold("") as held:
            await held.room(size)
            held.grow(size)
            yield

    async def ease(self, pending: Callable[[], int]) -> None:
        """Wait until a bulk may go on; see :meth:`sidecar.journal.barrier.Barrier.wait_for_bulk`."""
        await self._feed.barrier.wait_for_bulk(pending)

    async def _once(self, prepared: jobspec.Prepared, urgency: int, key: str, request: str, caller: str) -> Accepted:
        if key in self._in_flight:
            raise Conflict(
                f"A submit with the idempotency key {_plain(key)!r} is under way; ask again for its result.",
                headers={"Retry-After": str(_RETRY_AFTER)},
            )
        self._in_flight.add(key)
        unanswered: asyncio.Future[int] | None = None
        try:
            if found := await self._known(key):
                return _again(key, found, request)
            size = prepared.weight
            async with self._feed.barrier.admit(size), self._turn(size):
                job = await self._instance.submit(prepared, urgency)
                self._note(key, job, request, caller, size)
            return Accepted(job, fluid.f58(job))
        except ResponseTimeout as exc:
            # It may be accepted yet. Until that is known the key stays in flight, whoever still waits for it.
            unanswered = exc.result
            unanswered.add_done_callback(lambda result: self._late(key, request, caller, result))
            raise
        finally:
            if unanswered is None:
                self._in_flight.discard(key)

    async def _known(self, key: str) -> tuple[int, str] | None:
        if not self._feed.caught_up:  # the job may be in the part of the history that is not read yet
            raise Unavailable("The history of jobs is being read: whether this key was used is not known yet.")
        if self._generation != self._feed.tail.generation:
            self._generation = self._feed.tail.generation
            self._accepted.clear()  # another instance, with other jobs
        await self._forget_stored()
        if noted := self._accepted.get(key):
            return noted.job, noted.request
        return await self._store.job_of_key(key)

    async def _forget_stored(self) -> None:
        """Remember a key until the store does, however long that takes while its job is expected."""
        for known, noted in list(itertools.islice(self._accepted.items(), _LOOKED_AT)):
            expected = self._feed.barrier.is_pending(noted.job)
            stored = not expected and await self._store.job_of_key(known) is not None
            if self._accepted.get(known) is not noted:
                continue
            del self._accepted[known]
            if expected or not (stored or time.monotonic() - noted.since > _KEPT):
                self._accepted[known] = noted  # behind the others, which it does not hold up

    def _note(self, key: str, job: int, request: str, caller: str, size: int = 0) -> None:
        self._feed.barrier.note_accepted(job, caller, size)
        self._accepted[key] = _Noted(job, request, time.monotonic())

    def _late(self, key: str, request: str, caller: str, result: asyncio.Future[int]) -> None:
        self._in_flight.discard(key)
        # With the connection lost the history will tell, which is read before another submit with a key is taken.
        if not result.cancelled() and result.exception() is None:
            log.info("accepted late", job=fluid.f58(result.result()))
            self._note(key, result.result(), request, caller)


def digest(request: JobRequest) -> str:
    """Return what tells one request from another."""
    asked = {name: getattr(request, name) for name in JobRequest.__struct_fields__}
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()[:32]


def check_key(key: str, name: str = "Idempotency-Key") -> None:
    """Let a usable key through.

    Args:
        key: as it was sent.
        name: of the header or parameter, for the error.

    Raises:
        InvalidRequest: it is empty, too long, or not printable ASCII.
    """
    if not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"{name}: use 1 to {_LONGEST_KEY} printable ASCII characters, a UUID for instance.")


def _plain(key: str) -> str:
    """Return a scoped key as its caller knows it."""
    return key.rpartition("\n")[2]


def _again(key: str, found: tuple[int, str], request: str) -> Accepted:
    job, known = found
    if known != request:
        raise IdempotencyKeyReused(
            f"The idempotency key {_plain(key)!r} was used for another request, job {fluid.f58(job)}; take a new one."
        )
    return Accepted(job, fluid.f58(job), replayed=True)
