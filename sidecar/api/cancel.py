"""``/v1/jobs/{uid}/cancel`` and ``/v1/jobs/cancel``: cancel one job, or all jobs that a filter selects."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api import filters
from sidecar.api.fields import F58, JobID, Message
from sidecar.api.filters import Which
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.services.job_commands import JobCommands, NotCancelled

_SHOWN = 100  # failures in a response


class CancelBody(msgspec.Struct, forbid_unknown_fields=True):
    """Options of a cancel."""

    reason: Annotated[str, Meta(max_length=1000, description="stored with the job as the note of its exception")] = ""


class Cancelled(msgspec.Struct):
    """Flux has taken the request to cancel the job."""

    Message: Message
    id: JobID
    f58id: F58


class CancelMany(Which, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """The active jobs to cancel: at least one filter."""

    reason: Annotated[str, Meta(max_length=1000, description="stored with each job as the note of its exception")] = ""
    dry_run: Annotated[bool | None, Meta(description="count the jobs without cancelling them")] = None


class CancelledMany(msgspec.Struct):
    """The results of a cancel by filter."""

    Message: Message
    matched: Annotated[int, Meta(description="active jobs that match all filters")]
    cancelled: Annotated[int, Meta(description="jobs that Flux was asked to cancel")]
    already_ended: Annotated[int, Meta(description="jobs that ended before the cancel reached them")] = 0
    failed_total: Annotated[int, Meta(description="jobs that could not be cancelled")] = 0
    failed: Annotated[list[NotCancelled], Meta(description="the first 100 of them, each with the reason")] = []


class Cancel:
    """Cancel jobs.

    Args:
        commands: carries out the cancels.
    """

    tag = "jobs"

    def __init__(self, commands: JobCommands) -> None:
        self._commands = commands

    @operation(
        "POST",
        "/v1/jobs/{uid}/cancel",
        scope="submit",
        body=CancelBody,
        answers=(Answer("The instance was asked to end the job", Cancelled),),
        errors=(400, 404, 409, 413, 415, 503),
    )
    async def cancel(self, request: web.Request, jobid: int, body: CancelBody) -> Cancelled:
        """Cancel a pending or running job.

        The response is sent once Flux has taken the request. The job ends a moment later, with the result CANCELED.
        """
        await self._commands.cancel(jobid, body.reason, caller_of(request))
        return Cancelled("Job is requested to cancel.", jobid, fluid.f58(jobid))

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

        At least one filter is required; state=active selects all active jobs. Without the scope admin only the
        caller's own jobs match. With dry_run=true the jobs are counted and not cancelled.
        """
        where, caller = filters.required(body), caller_of(request)
        jobids = await self._commands.select(where, caller)
        if body.dry_run:
            return CancelledMany(f"{len(jobids)} jobs match; none was cancelled (dry_run).", len(jobids), 0)
        summary = await self._commands.cancel_all(jobids, body.reason, caller)
        audit_details(request, matched=summary.matched, cancelled=summary.cancelled)
        text = f"{summary.cancelled} jobs are requested to cancel."
        if summary.ended:
            text += f" {summary.ended} had ended before."
        if summary.failed:
            text += f" {len(summary.failed)} could not be cancelled."
        failed = summary.failed
        return CancelledMany(text, summary.matched, summary.cancelled, summary.ended, len(failed), failed[:_SHOWN])
