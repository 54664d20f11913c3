"""``/api/v1``: the dialect of flux-rest-server, for its clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.idempotency import KEY, key_of
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid, rest_info
from sidecar.domain.rest_info import RestInfo
from sidecar.domain.rest_request import RestJob
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import json_response
from sidecar.services.rest_v1 import INVALID_JOBSPEC, RestJobs, RestRoot

_RETRY_AFTER = "5"  # seconds; flux-rest-server's default

RestID = Annotated[str, Meta(description="job ID as F58 with an ASCII prefix, such as f2oUvBnNfh")]


class RestHealth(msgspec.Struct):
    """The server answers."""

    status: Annotated[Literal["ok"], Meta(description="always ok")]


class RestSubmitted(msgspec.Struct, omit_defaults=True):
    """Flux has accepted the job."""

    id: RestID
    warnings: Annotated[list[str], Meta(description="arguments without effect on the embedded engine")] = []


class RestCancelled(msgspec.Struct):
    """Flux has taken the request to cancel the job."""

    id: RestID
    status: Annotated[Literal["cancel requested"], Meta(description="always cancel requested")]


class RestGetQuery(msgspec.Struct, kw_only=True, frozen=True):
    """The members to return."""

    attrs: Annotated[
        str,
        Meta(
            description="return only these members, and id: a list separated by commas. An exception_… stands for "
            "exception"
        ),
    ] = ""


class RestCancelQuery(msgspec.Struct, kw_only=True, frozen=True):
    """Options of a cancel."""

    reason: Annotated[str, Meta(max_length=1000, description="stored with the job as the note of its exception")] = ""


class RestV1:
    """Serve flux-rest-server's clients.

    Args:
        jobs: submits, reads and cancels jobs.
    """

    tag = "rest"

    def __init__(self, jobs: RestJobs) -> None:
        self._jobs = jobs

    @operation("GET", "/api/v1/", answers=(Answer("The instance", RestRoot),), errors=(400, 503))
    async def root(self, request: web.Request) -> RestRoot:
        """Describe the instance, as flux-rest-server does.

        503 while the server is not connected to Flux.
        """
        return await self._jobs.root()

    @operation(
        "GET",
        "/api/v1/health",
        scope=None,
        use=False,
        quiet=True,
        answers=(Answer("The server answers", RestHealth),),
        errors=(400,),
    )
    async def health(self, request: web.Request) -> RestHealth:
        """Check whether the server answers, without a request to Flux; use /readyz to check the instance too."""
        return RestHealth("ok")

    @operation(
        "POST",
        "/api/v1/jobs",
        scope="submit",
        body=RestJob,
        json_only=True,
        headers={KEY: "makes a retry safe: the same key and body return the first job"},
        answers=(Answer("Flux has accepted the job", RestSubmitted, status=201),),
        errors=(400, 403, 409, 415, 422, 503),
        message=INVALID_JOBSPEC,
    )
    async def submit(self, request: web.Request, body: RestJob) -> web.Response:
        """Submit a job, by the arguments of flux.job.JobspecV1.from_command.

        The body is JSON, whatever its Content-Type. The response has the job's address in Location. A job inherits
        nothing from the broker: without environment it has HOME, USER, LOGNAME, SHELL and PATH
        (/usr/local/bin:/usr/bin:/bin), and without cwd it runs in its user's home directory. The Idempotency-Key is an
        addition of this server, and so are warnings.
        """
        job = await self._jobs.submit(body, key_of(request), caller_of(request))
        audit_details(request, job=job.f58id, replayed=job.replayed)
        plain = fluid.f58_ascii(job.id)
        headers = {"Location": f"/api/v1/jobs/{plain}"}
        if job.replayed:
            headers["Idempotent-Replayed"] = "true"
        return json_response(RestSubmitted(plain, self._jobs.warnings(body)), status=201, headers=headers)

    @operation(
        "GET",
        "/api/v1/jobs/{id}",
        query=RestGetQuery,
        answers=(Answer("The job", RestInfo),),
        errors=(400, 404, 503),
    )
    async def get(self, request: web.Request, jobid: int, query: RestGetQuery) -> web.Response:
        """Read one job, with the members of flux.job.info.JobInfo.to_dict() and its id as F58.

        Retry-After is 5 while the job is active, and absent once it has ended.
        """
        job, active = await self._jobs.job(jobid, rest_info.parse_attributes(query.attrs))
        return json_response(job, headers={"Retry-After": _RETRY_AFTER} if active else None)

    @operation(
        "DELETE",
        "/api/v1/jobs/{id}",
        scope="submit",
        query=RestCancelQuery,
        answers=(Answer("Flux was asked to end the job", RestCancelled, status=202),),
        errors=(400, 404, 409, 503),
    )
    async def cancel(self, request: web.Request, jobid: int, query: RestCancelQuery) -> Any:
        """Cancel a pending or running job.

        The job ends a moment later, with the result CANCELED. A body is ignored.
        """
        await self._jobs.cancel(jobid, query.reason, caller_of(request))
        return json_response(RestCancelled(fluid.f58_ascii(jobid), "cancel requested"), status=202)
