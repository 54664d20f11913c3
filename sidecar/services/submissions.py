"""Submit jobs: once per idempotency key, however often the request is repeated.

The key is stored in the jobspec and comes back in Flux's journal. So every server knows it, also after a restart: if a
server is killed between Flux's acceptance and its own response, the next one finds the job in the history.
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
from sidecar.domain.inherited import InheritedVariables
from sidecar.domain.job_request import JobContext, JobRequest
from sidecar.domain.model import ANONYMOUS, DEFAULT_URGENCY
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.budget import Budget
from sidecar.store import Store

log = structlog.get_logger("submit")

_LONGEST_KEY = 255  # characters
_RETRY_AFTER = 1  # seconds
_IN_FLIGHT = 8 * 1024 * 1024  # bytes of jobs without a response of the instance: a broker does nothing else meanwhile
_CHECKED = 8  # known keys that each submit checks: more than one, so that the number of keys shrinks
_MAX_AGE = 3600.0  # seconds that a key without a stored job is remembered: Flux may have purged the job


class _Submitted(NamedTuple):
    jobid: int
    digest: str
    since: float


class Accepted(msgspec.Struct):
    """A job that the instance has accepted, now or (``replayed``) at the first use of its key."""

    id: int
    f58id: str
    replayed: bool = False


class Submissions:
    """Submit jobs to the instance.

    Args:
        instance: runs the jobs.
        feed: receives the accepted jobs, for reads that must include them.
        store: has the keys of the jobs in the journal.
        option_flags: default shell options of every job; those of the request take precedence.
        inherited: selects the variables that jobs inherit.
    """

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        store: Store,
        option_flags: dict[str, Any],
        inherited: InheritedVariables | None = None,
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._store = store
        self._option_flags = option_flags
        self._inherited = inherited or InheritedVariables()
        self._budget = Budget(_IN_FLIGHT, "jobs that Flux has not taken up", "")
        self._in_flight: set[str] = set()
        self._accepted: dict[str, _Submitted] = {}
        self._generation = feed.tail.generation

    async def build(self, request: JobRequest, caller: Caller, context: JobContext | None = None) -> dict[str, Any]:
        """Return the jobspec of a request.

        Args:
            request: parameters of the client.
            caller: becomes the job's submitter.
            context: in place of the environment that jobs inherit from the instance.

        Raises:
            Forbidden: the caller may not use the urgency.
            InvalidRequest: parameters contradict each other.
        """
        caller.require_urgency(request.urgency)
        if request.queue == ANONYMOUS and (await self._instance.queues()).anonymous:
            request = msgspec.structs.replace(request, queue=None)  # the name is ours: to Flux the queue has none
        environment = context.environment if context else self._inherited.of(await self._instance.environment())
        spec = jobspec.build(request, environment, self._option_flags, bank=context.bank if context else "")
        if caller.name:
            submitters.mark(spec, submitter=caller.name)
        return spec

    async def submit(
        self, request: JobRequest, key: str | None, caller: Caller, context: JobContext | None = None
    ) -> Accepted:
        """Submit a job, or return the job that was submitted with the same key; for arguments see :meth:`build`.

        Raises:
            InvalidRequest: parameters contradict each other, or the key is not valid.
            Forbidden: the caller may not use the urgency.
            IdempotencyKeyReused: the key was used for another request.
            Conflict: a submit with this key is in progress.
            Rejected: the instance refused the job.
            Unavailable: the instance is not connected, or accepted jobs are not stored in time. A retry with a key is
                safe.
        """
        urgency = DEFAULT_URGENCY if request.urgency is None else request.urgency
        if key is None:
            prepared = jobspec.prepared(await self.build(request, caller, context))
            size = prepared.weight
            async with self._feed.barrier.admit(size), self._limit_in_flight(size):
                jobid = await self._instance.submit(prepared, urgency)
                self._feed.barrier.note_accepted(jobid, caller.name, size)
            return Accepted(jobid, fluid.f58(jobid))
        check_key(key)
        if len(caller.name) > submitters.LONGEST_KEY:
            raise InvalidRequest(
                f"Idempotency-Key: the name of this caller has more than {submitters.LONGEST_KEY} characters, too "
                "many to store a key with it; leave the key out."
            )
        requested = digest(request, context)
        spec = submitters.mark(await self.build(request, caller, context), key=key, request=requested)
        prepared = jobspec.prepared(spec)
        return await self._submit_once(
            prepared, urgency, submitters.scoped_key(key, caller.name), requested, caller.name
        )

    async def ease(self, pending: Callable[[], int]) -> None:
        """Wait until a bulk may continue; see :meth:`sidecar.journal.barrier.Barrier.wait_for_bulk`."""
        await self._feed.barrier.wait_for_bulk(pending)

    @asynccontextmanager
    async def _limit_in_flight(self, size: int) -> AsyncIterator[None]:
        """Wait until the jobs that the instance has not answered are few enough for one more to be answered soon."""
        with self._budget.reserve("") as in_flight:
            await in_flight.wait(size)
            in_flight.grow(size)
            yield

    # ------------------------------------------------------------------------------------------ idempotency keys

    async def _submit_once(
        self, prepared: jobspec.Prepared, urgency: int, key: str, requested: str, caller: str
    ) -> Accepted:
        if key in self._in_flight:
            raise Conflict(
                f"A submit with the idempotency key {_unscoped(key)!r} is under way; ask again for its result.",
                headers={"Retry-After": str(_RETRY_AFTER)},
            )
        self._in_flight.add(key)
        unanswered: asyncio.Future[int] | None = None
        try:
            if known := await self._find(key):
                return _replayed(key, known, requested)
            size = prepared.weight
            async with self._feed.barrier.admit(size), self._limit_in_flight(size):
                jobid = await self._instance.submit(prepared, urgency)
                self._remember(key, jobid, requested, caller, size)
            return Accepted(jobid, fluid.f58(jobid))
        except ResponseTimeout as exc:
            # The job may still be accepted. Until that is known, the key stays in flight.
            unanswered = exc.result
            unanswered.add_done_callback(lambda result: self._late_response(key, requested, caller, result))
            raise
        finally:
            if unanswered is None:
                self._in_flight.discard(key)

    async def _find(self, key: str) -> tuple[int, str] | None:
        """Return the jobid and the request digest of a key; None if the key is unknown.

        Raises:
            Unavailable: the job may be in the part of the history that is not read yet.
        """
        if not self._feed.live:
            raise Unavailable("The active jobs are being read: whether this key was used is not known yet.")
        if self._generation != self._feed.tail.generation:
            self._generation = self._feed.tail.generation
            self._accepted.clear()  # another instance with other jobs
        await self._forget_stored()
        if submitted := self._accepted.get(key):
            return submitted.jobid, submitted.digest
        complete = self._feed.caught_up  # before the store is read: the history may be complete right afterwards
        known = await self._store.job_of_key(key)
        if known is None and not complete:
            raise Unavailable("The history of jobs is being read: whether this key was used is not known yet.")
        return known

    async def _forget_stored(self) -> None:
        """Forget some keys that the store has, and those that it will not get."""
        for key, submitted in list(itertools.islice(self._accepted.items(), _CHECKED)):
            pending = self._feed.barrier.is_pending(submitted.jobid)
            stored = not pending and await self._store.job_of_key(key) is not None
            if self._accepted.get(key) is not submitted:
                continue
            del self._accepted[key]
            if pending or not (stored or time.monotonic() - submitted.since > _MAX_AGE):
                self._accepted[key] = submitted  # at the end: the next submits check other keys

    def _remember(self, key: str, jobid: int, requested: str, caller: str, size: int = 0) -> None:
        self._feed.barrier.note_accepted(jobid, caller, size)
        self._accepted[key] = _Submitted(jobid, requested, time.monotonic())

    def _late_response(self, key: str, requested: str, caller: str, result: asyncio.Future[int]) -> None:
        self._in_flight.discard(key)
        # If the connection was lost, the history shows whether the job exists: no key is accepted before it is read.
        if not result.cancelled() and result.exception() is None:
            log.info("accepted late", job=fluid.f58(result.result()))
            self._remember(key, result.result(), requested, caller)


def digest(request: JobRequest, context: JobContext | None = None) -> str:
    """Return a digest of all parameters of a request, in the dialect in which it was sent."""
    if context:
        parameters = msgspec.structs.asdict(context.sent)
    else:
        parameters = {name: getattr(request, name) for name in JobRequest.__struct_fields__}
    return hashlib.sha256(msgspec.json.encode(parameters, order="sorted")).hexdigest()[:32]


def check_key(key: str, name: str = "Idempotency-Key") -> None:
    """Check that an idempotency key is valid.

    Args:
        key: the key.
        name: the header or parameter, for the error.

    Raises:
        InvalidRequest: the key is empty, too long, or not printable ASCII.
    """
    if not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(f"{name}: use 1 to {_LONGEST_KEY} printable ASCII characters, a UUID for instance.")


def _unscoped(key: str) -> str:
    """Return the key as the caller sent it."""
    return key.rpartition("\n")[2]


def _replayed(key: str, known: tuple[int, str], requested: str) -> Accepted:
    jobid, known_digest = known
    if known_digest != requested:
        raise IdempotencyKeyReused(
            f"The idempotency key {_unscoped(key)!r} was used for another request, job {fluid.f58(jobid)}; "
            "use a new key."
        )
    return Accepted(jobid, fluid.f58(jobid), replayed=True)
