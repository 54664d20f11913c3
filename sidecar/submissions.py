"""The way of a job into the instance: once, however often its submit is repeated under one idempotency key.

The key travels in the jobspec, and comes back from Flux's journal. So it is known whoever asks, in this server's life
or the next one's: a server that was killed between Flux's acceptance and its own answer finds the job in the history.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from typing import Any

import msgspec
import structlog

from sidecar import fluid, jobspec
from sidecar.auth.caller import Caller
from sidecar.errors import Conflict, InvalidRequest, KeyReused, Unanswered, Unavailable
from sidecar.feed import Feed
from sidecar.instance import Instance
from sidecar.model import JobRequest
from sidecar.store import Store

log = structlog.get_logger("submit")

_DEFAULT_URGENCY = 16
_LONGEST_KEY = 255
_RETRY_AFTER = 1
_LOOKED_AT = 8  # more than are added, so the keys that are kept become fewer


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
        self._in_flight: set[str] = set()
        self._accepted: dict[str, tuple[int, str]] = {}
        self._generation = feed.tail.generation

    async def build(self, request: JobRequest, caller: Caller) -> dict[str, Any]:
        """Return the jobspec of a caller's request.

        Raises:
            Forbidden: it overtakes others, which the caller may not.
            InvalidRequest: the request contradicts itself.
        """
        caller.require_urgency(request.urgency)
        spec = jobspec.build(request, await self._instance.environment(), self._option_flags)
        if caller.name:
            jobspec.mark(spec, submitter=caller.name)
        return spec

    async def submit(self, request: JobRequest, key: str | None, caller: Caller) -> Accepted:
        """Submit a job, or find the one that was submitted with this key.

        Raises:
            InvalidRequest: the request contradicts itself, or the key cannot be one.
            Forbidden: it overtakes others, which the caller may not.
            KeyReused: the key was used for another request.
            Conflict: a submit with this key is under way.
            Rejected: the instance refused the job.
            Unavailable: the instance is not there; with a key it is safe to ask again.
        """
        spec = await self.build(request, caller)
        urgency = _DEFAULT_URGENCY if request.urgency is None else request.urgency
        if key is None:
            job = await self._instance.submit(spec, urgency)
            self._feed.expect(job)
            return Accepted(job, fluid.f58(job))
        check_key(key)
        jobspec.mark(spec, key=key, request=digest(request))
        return await self._once(spec, urgency, jobspec.scoped(key, caller.name), digest(request))

    async def _once(self, spec: dict[str, Any], urgency: int, key: str, request: str) -> Accepted:
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
            job = await self._instance.submit(spec, urgency)
            self._note(key, job, request)
            return Accepted(job, fluid.f58(job))
        except Unanswered as exc:
            # It may be accepted yet. Until that is known the key stays in flight, whoever still waits for it.
            unanswered = exc.result
            unanswered.add_done_callback(lambda result: self._late(key, request, result))
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
        return self._accepted.get(key) or await self._store.key(key)

    async def _forget_stored(self) -> None:
        """Remember a key until the store does, however long that takes."""
        for known, (job, _) in list(itertools.islice(self._accepted.items(), _LOOKED_AT)):
            if self._feed.expects(job) or await self._store.key(known) is None:
                return  # in their order: those behind it are newer
            self._accepted.pop(known, None)

    def _note(self, key: str, job: int, request: str) -> None:
        self._feed.expect(job)
        self._accepted[key] = job, request

    def _late(self, key: str, request: str, result: asyncio.Future[int]) -> None:
        self._in_flight.discard(key)
        # With the connection lost the history will tell, which is read before another submit with a key is taken.
        if not result.cancelled() and result.exception() is None:
            log.info("accepted late", job=fluid.f58(result.result()))
            self._note(key, result.result(), request)


def digest(request: JobRequest) -> str:
    """Return what tells one request from another."""
    asked = {name: getattr(request, name) for name in JobRequest.__struct_fields__}
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()[:32]


def check_key(key: str) -> None:
    """Let a usable key through.

    Raises:
        InvalidRequest: it is empty, too long, or not printable ASCII.
    """
    if not (0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest(
            f"Idempotency-Key: use 1 to {_LONGEST_KEY} printable ASCII characters, a UUID for instance."
        )


def _plain(key: str) -> str:
    """Return a scoped key as its caller knows it."""
    return key.rpartition("\n")[2]


def _again(key: str, found: tuple[int, str], request: str) -> Accepted:
    job, known = found
    if known != request:
        raise KeyReused(
            f"The idempotency key {_plain(key)!r} was used for another request, job {fluid.f58(job)}; take a new one."
        )
    return Accepted(job, fluid.f58(job), replayed=True)
