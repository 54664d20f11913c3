"""``POST /v1/jobs/submit``."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.fields import F58, INVALID_SUBMIT, JobID, Message
from sidecar.api.idempotency import KEY, key_of
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid
from sidecar.domain.job_request import JobRequest
from sidecar.http.audit import audit_details
from sidecar.http.html import relative_root
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import json_response
from sidecar.services.submit import SubmitService


class SubmitBody(JobRequest, kw_only=True, forbid_unknown_fields=True):
    """The job to run or to check."""

    dry_run: Annotated[bool | None, Meta(description="check the job without submitting it")] = None


class Submitted(msgspec.Struct, omit_defaults=True):
    """The job was accepted; every later read of this server finds it."""

    Message: Message
    id: JobID
    f58id: F58
    warnings: Annotated[list[str], Meta(description="probable mistakes, such as a pipe without a shell")] = []


class Launched(msgspec.Struct):
    """A launcher was started; the jobs that it submits appear in the list of jobs."""

    Message: Message
    id: Annotated[str, Meta(description="always MANY: a launcher has no job ID of its own")]
    launcher: Annotated[int, Meta(description="number of the launcher in /v1/launchers")]


class Checked(msgspec.Struct, omit_defaults=True):
    """The job was checked and not submitted."""

    Message: Message
    jobspec: Annotated[dict[str, Any], Meta(description="the jobspec (RFC 14, RFC 25), without its environment")]
    warnings: Annotated[list[str], Meta(description="probable mistakes, as for a submit; also part of Message")] = []


class Submit:
    """Submit jobs.

    Args:
        service: accepts, checks and launches.
    """

    tag = "jobs"

    def __init__(self, service: SubmitService) -> None:
        self._service = service

    @operation(
        "POST",
        "/v1/jobs/submit",
        scope="submit",
        body=SubmitBody,
        whole_body="envars",
        headers={KEY: "makes a retry safe: the same key and body return the first job"},
        answers=(Answer("The job was accepted or checked, or the launcher started", Submitted | Launched | Checked),),
        errors=(400, 403, 409, 413, 415, 422, 503),
        message=INVALID_SUBMIT,
    )
    async def submit(self, request: web.Request, body: SubmitBody) -> web.Response | Checked:
        """Submit a job.

        The parameters may be sent as a JSON body, as a form or in the query string, under the same names. If command is
        in the query, and no member of a JSON body has the name of a parameter or one similar to it, the whole body is
        envars, as in flux-restful 1.1. The response is sent once Flux has accepted the job, and has its address in
        Location; from then on each read of this server finds the job, or returns 503 with the lag. With an
        Idempotency-Key the job is submitted once, however often the request is repeated, also after a crash of the
        server; a response with the first job has the header Idempotent-Replayed. With dry_run=true nothing is
        submitted: the response is the jobspec, or what is wrong with its shape, its queue, the limits of that queue, or
        its resources. Dependencies and the decisions of job manager plugins are checked by a submit only.
        """
        self._service.require_accepting()
        key, caller = key_of(request), caller_of(request)
        root = relative_root(request.path)
        if body.is_launcher:
            launcher = await self._service.launch(body, key, caller)
            audit_details(request, launcher=launcher.id, program=launcher.command[0])
            launched = Launched("Job submit, see jobs table for spawned jobs.", "MANY", launcher.id)
            return json_response(launched, headers={"Location": f"{root}v1/launchers/{launcher.id}"})
        warnings = self._service.warnings(body)
        if body.dry_run:
            spec = await self._service.check(body, key, caller)
            return Checked(" ".join([_accepted_text(body), *warnings]), spec, warnings)
        job = await self._service.submit(body, key, caller)
        audit_details(request, job=job.f58id, replayed=job.replayed)
        headers = {"Location": f"{root}v1/jobs/{fluid.f58_ascii(job.id)}"}
        if job.replayed:
            headers["Idempotent-Replayed"] = "true"
        return json_response(Submitted("Job submit.", job.id, job.f58id, warnings), headers=headers)


def _accepted_text(body: SubmitBody) -> str:
    text = "The job would be accepted."
    return f"{text} Its dependencies are checked by a submit only." if body.dependencies else text
