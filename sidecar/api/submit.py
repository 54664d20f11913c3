"""``POST /v1/jobs/submit``."""

from __future__ import annotations

import shutil
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.idempotency import KEY, key_of
from sidecar.auth.caller import Caller
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid, jobspec, parameters, shell_options
from sidecar.domain.errors import InvalidRequest, Rejected
from sidecar.domain.job_request import JobRequest
from sidecar.http.audit import audit_details
from sidecar.http.html import relative_root
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import json_response
from sidecar.instance import Instance
from sidecar.services.launchers import Launchers
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.submissions import Submissions, check_key

_INVALID = "Invalid submit request"

#: What means nothing to a launcher, which is no job and takes no resources of the instance.
_JOB_ONLY = (
    "num_tasks",
    "cores_per_task",
    "gpus_per_task",
    "num_nodes",
    "exclusive",
    "runtime",
    "queue",
    "urgency",
    "dry_run",
)


class SubmitBody(JobRequest, kw_only=True, forbid_unknown_fields=True):
    """What to run, or only to check."""

    dry_run: Annotated[bool | None, Meta(description="check the job, and submit nothing")] = None


class Submitted(msgspec.Struct, omit_defaults=True):
    """The job was accepted, and every later read of this server knows of it."""

    Message: str
    id: int
    f58id: str
    warnings: Annotated[list[str], Meta(description="what may not be meant, such as a pipe without a shell")] = []


class Launched(msgspec.Struct):
    """A launcher was started; the jobs that it submits appear in the list."""

    Message: str
    id: str
    launcher: int


class Checked(msgspec.Struct, omit_defaults=True):
    """The job was checked and not submitted; the jobspec is shown without its environment."""

    Message: str
    jobspec: dict[str, Any]
    warnings: Annotated[list[str], Meta(description="as of a submit; Message holds them too")] = []


class Submit:
    """Takes jobs."""

    tag = "jobs"

    def __init__(
        self,
        instance: Instance,
        lifecycle: Lifecycle,
        submissions: Submissions,
        launchers: Launchers,
        launcher_names: frozenset[str],
    ) -> None:
        self._instance = instance
        self._lifecycle = lifecycle
        self._submissions = submissions
        self._launchers = launchers
        self._launcher_names = launcher_names

    @operation(
        "POST",
        "/v1/jobs/submit",
        scope="submit",
        body=SubmitBody,
        headers={KEY: "makes it safe to repeat this submit: the same key and body answer with the first job"},
        answers=(Answer("The job was accepted or checked, or the launcher started", Submitted | Launched | Checked),),
        errors=(400, 403, 409, 413, 415, 422, 503),
        message=_INVALID,
    )
    async def submit(self, request: web.Request, body: SubmitBody) -> web.Response | Checked:
        """Submit a job.

        The parameters may come as a JSON body, as a form or in the query string, under the same names. Answers once
        Flux has accepted the job, with its address in Location; from then on each read of this server finds the job,
        or answers 503 with the lag. With an Idempotency-Key the job is submitted once, however often the request is
        repeated, and over a crash of the server too; an answer with the first job has the header Idempotent-Replayed.
        With dry_run=true nothing is submitted: the answer is the jobspec, or what is wrong with its shape, its queue,
        the limits of that queue, or its resources. Dependencies, and what plugins of the job manager decide, only a
        submit finds out.
        """
        self._lifecycle.require_running()
        self._instance.status.require_ready()
        key, caller = key_of(request), caller_of(request)
        if body.is_launcher:
            return await self._launch(request, body, key)
        if body.dry_run:
            return await self._check(body, key, caller)
        job = await self._submissions.submit(body, key, caller)
        audit_details(request, job=job.f58id, replayed=job.replayed)
        headers = {"Location": f"{relative_root(request.path)}v1/jobs/{fluid.f58_ascii(job.f58id)}"}
        if job.replayed:
            headers["Idempotent-Replayed"] = "true"
        return json_response(Submitted("Job submit.", job.id, job.f58id, self._warnings(body)), headers=headers)

    async def _check(self, body: SubmitBody, key: str | None, caller: Caller) -> Checked:
        if key is not None:
            check_key(key)
        spec = await self._submissions.build(body, caller)
        await self._instance.check(jobspec.prepared(spec))
        text = "The job would be accepted."
        if body.dependencies:
            text += " Whether its dependencies are, only a submit finds out."
        warnings = self._warnings(body)
        return Checked(" ".join([text, *warnings]), jobspec.without_environment(spec), warnings)

    async def _launch(self, request: web.Request, body: SubmitBody, key: str | None) -> web.Response:
        # It runs beside the server, and can do whatever the server can.
        caller_of(request).require("admin")
        words = parameters.parse_command(body.command)
        if words[0] not in self._launcher_names:
            known = ", ".join(sorted(self._launcher_names)) or "none"
            raise InvalidRequest(f"is_launcher: {words[0]!r} is not a known launcher (--launchers): {known}.")
        given: list[Any] = [name for name in _JOB_ONLY if getattr(body, name) is not None]
        if given:
            raise InvalidRequest(f"is_launcher: a launcher is no job; leave out {', '.join(given)}.")
        if key is not None:
            raise InvalidRequest(f"{KEY}: a launcher is no job, and has none; leave it out.")
        environment = await self._instance.environment()
        # By the instance's PATH: with the caller's own any program could take a known one's name.
        program = shutil.which(words[0], path=environment.variables.get("PATH"))
        if program is None:
            raise Rejected(f"is_launcher: {words[0]} is not in the instance's PATH, or not on the server's machine.")
        variables = {**environment.variables, **parameters.parse_envars(body.envars)}
        launcher = await self._launchers.start(
            program, words, variables, body.workdir or environment.cwd, caller_of(request).name
        )
        audit_details(request, launcher=launcher.id, program=words[0])
        answer = Launched("Job submit, see jobs table for spawned jobs.", "MANY", launcher.id)
        return json_response(answer, headers={"Location": f"{relative_root(request.path)}v1/launchers/{launcher.id}"})

    def _warnings(self, body: SubmitBody) -> list[str]:
        """Return what may not be meant in a request."""
        ignored = shell_options.ignored(body.option_flags) if self._instance.status.kind == "embedded" else ""
        return [text for text in (parameters.shell_warning(body.command), ignored) if text]
