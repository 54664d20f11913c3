"""Cancel: one job, or all that a filter matches."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api import filters
from sidecar.api.filters import Which
from sidecar.api.lookup import require_own
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid
from sidecar.domain.errors import Conflict, Ended, Forbidden, InvalidRequest, NotFound, Problem, Unavailable
from sidecar.domain.model import ACTIVE
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.store import Store

_AT_ONCE = 256
_SHOWN = 100


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said with a cancel."""

    reason: Annotated[str, Meta(max_length=1000, description="kept with the job as its exception's note")] = ""


class Cancelled(msgspec.Struct):
    """The answer to a cancel."""

    Message: str
    id: int
    f58id: str


class CancelMany(Which, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """Which active jobs to cancel: at least one filter."""

    reason: Annotated[str, Meta(max_length=1000, description="kept with each job as its exception's note")] = ""
    dry_run: Annotated[bool | None, Meta(description="count the jobs, cancel none")] = None


class NotCancelled(msgspec.Struct):
    """A job that could not be cancelled, and why."""

    id: int
    f58id: str
    detail: str


class CancelledMany(msgspec.Struct):
    """The answer to a cancel by filter."""

    Message: str
    matched: int
    cancelled: int
    already_ended: Annotated[int, Meta(description="jobs that ended by themselves before the cancel reached them")] = 0
    failed_total: Annotated[int, Meta(description="jobs that could not be cancelled")] = 0
    failed: Annotated[list[NotCancelled], Meta(description="the first 100 of them, each with the reason")] = []


class Cancel:
    """Ends jobs."""

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed, instance: Instance) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance

    @operation(
        "POST",
        "/v1/jobs/{uid}/cancel",
        scope="submit",
        body=CancelBody,
        answers=(Answer("The instance was asked to end the job", Cancelled),),
        errors=(400, 404, 409, 413, 415, 503),
    )
    async def cancel(self, request: web.Request, job: int, body: CancelBody) -> Cancelled:
        """Cancel a pending or running job.

        Answers once Flux has taken the request; the job ends a moment later, and has the result CANCELED then.
        """
        if await require_own(self._store, self._feed, job, caller_of(request)) == "INACTIVE":
            raise Conflict(f"Job cannot be cancelled: {fluid.f58(job)} has ended already.")
        await self._instance.cancel(job, body.reason)
        self._feed.barrier.note_command(job, caller_of(request).name)
        return Cancelled("Job is requested to cancel.", job, fluid.f58(job))

    @operation(
        "POST",
        "/v1/jobs/cancel",
        scope="submit",
        body=CancelMany,
        answers=(Answer("The instance was asked to end the jobs", CancelledMany),),
        errors=(400, 413, 415, 503),
    )
    async def cancel_many(self, request: web.Request, body: CancelMany) -> CancelledMany:
        """Cancel every active job that all filters match.

        At least one filter is needed: state=active names every active job. Without the scope admin only the caller's
        own jobs match. With dry_run=true they are only counted.
        """
        for name in ("user", "submitter", "queue", "name"):
            if getattr(body, name) == "":  # as of a shell variable that is not set: it would match nearly every job
                raise InvalidRequest(f"{name}: must not be empty here; leave it out to cancel jobs whatever it is.")
        where = filters.read(body)
        caller = caller_of(request)
        if where == filters.EVERYTHING:
            raise InvalidRequest(
                "Name at least one of state, user, submitter, queue, name, since, until; state=active is all."
            )
        if "admin" not in caller.scopes:
            if where.submitter not in (None, caller.name):
                raise Forbidden(f"submitter: jobs of others than {caller.name} need the scope admin.")
            where = msgspec.structs.replace(where, submitter=caller.name)
        self._instance.status.require_ready()
        if not self._feed.caught_up:
            raise Unavailable("The history of jobs is being read: which jobs match is not known yet.")
        await self._feed.barrier.wait_visible(where.submitter if "admin" not in caller.scopes else None)
        states = tuple(state for state in where.states or ACTIVE if state != "INACTIVE")
        jobs = await self._store.lists.jobids(msgspec.structs.replace(where, states=states)) if states else []
        if body.dry_run:
            return CancelledMany(f"{len(jobs)} jobs match; none was cancelled (dry_run).", len(jobs), 0)
        ended, failed = await self._all(jobs, body.reason, caller.name)
        done = len(jobs) - ended - len(failed)
        audit_details(request, matched=len(jobs), cancelled=done)
        text = f"{done} jobs are requested to cancel."
        if ended:
            text += f" {ended} had ended before."
        if failed:
            text += f" {len(failed)} could not be cancelled."
        return CancelledMany(text, len(jobs), done, ended, len(failed), failed[:_SHOWN])

    async def _all(self, jobs: list[int], reason: str, caller: str) -> tuple[int, list[NotCancelled]]:
        """Ask for the end of each, many at once.

        Returns:
            How many had ended already, and those that could not be cancelled.
        """
        ended = 0
        failed: list[NotCancelled] = []
        left = iter(jobs)

        async def work() -> None:
            nonlocal ended
            for job in left:
                try:
                    await self._instance.cancel(job, reason)
                    self._feed.barrier.note_command(job, caller)
                except (Ended, NotFound):  # Flux has purged a job that it does not know any more
                    ended += 1
                except Problem as exc:
                    failed.append(NotCancelled(job, fluid.f58(job), exc.detail))

        await asyncio.gather(*(work() for _ in range(min(_AT_ONCE, len(jobs)))))
        return ended, failed
