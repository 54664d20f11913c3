"""``POST /v1/jobs/submit``."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from aiohttp import web

from sidecar import fluid, jobspec
from sidecar.api.routing import Answer, json_response, operation
from sidecar.errors import InvalidRequest
from sidecar.feed import Feed
from sidecar.instance import Instance
from sidecar.launchers import Launchers
from sidecar.lifecycle import Lifecycle
from sidecar.model import JobRequest

log = structlog.get_logger("submit")

_INVALID = "Invalid submit request"
_DEFAULT_URGENCY = 16
_SEEN_TIMEOUT = 10.0

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
)


class Submitted(msgspec.Struct):
    """The job was accepted, and is in every list from now on."""

    Message: str
    id: int
    f58id: str


class Launched(msgspec.Struct):
    """A launcher was started; the jobs that it submits appear in the list."""

    Message: str
    id: str
    launcher: int


class Submit:
    """Takes jobs."""

    tag = "jobs"

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        lifecycle: Lifecycle,
        launchers: Launchers,
        *,
        option_flags: dict[str, str],
        launcher_names: frozenset[str],
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._lifecycle = lifecycle
        self._launchers = launchers
        self._option_flags = jobspec.parse_flags(dict(option_flags))
        self._launcher_names = launcher_names

    @operation(
        "POST",
        "/v1/jobs/submit",
        body=JobRequest,
        answers=(Answer("The job was accepted, or the launcher started", Submitted | Launched),),
        errors=(400, 409, 413, 415, 503),
        message=_INVALID,
    )
    async def submit(self, request: web.Request, body: JobRequest) -> web.Response:
        """Submit a job.

        The parameters may come as a JSON body, as a form or in the query string, under the same names. Answers once
        Flux has accepted the job, with its address in Location; from then on the job is in every list.
        """
        self._lifecycle.require_running()
        self._instance.status.require()
        if body.is_launcher:
            return await self._launch(body)
        spec = jobspec.build(body, await self._instance.environment(), self._option_flags)
        urgency = _DEFAULT_URGENCY if body.urgency is None else body.urgency
        job = await self._instance.submit(spec, urgency)
        try:
            await self._feed.seen(job, _SEEN_TIMEOUT)
        except TimeoutError:  # accepted is accepted: an error would make the caller submit it twice
            log.warning("an accepted job is not in the journal yet", job=fluid.f58(job))
        answer = Submitted("Job submit.", job, fluid.f58(job))
        return json_response(answer, headers={"Location": f"/v1/jobs/{answer.f58id.replace('ƒ', 'f')}"})

    async def _launch(self, body: JobRequest) -> web.Response:
        words = jobspec.parse_command(body.command)
        if words[0] not in self._launcher_names:
            known = ", ".join(sorted(self._launcher_names)) or "none"
            raise InvalidRequest(f"is_launcher: {words[0]!r} is not a known launcher (--launchers): {known}.")
        given: list[Any] = [name for name in _JOB_ONLY if getattr(body, name) is not None]
        if given:
            raise InvalidRequest(f"is_launcher: a launcher is no job; leave out {', '.join(given)}.")
        environment = await self._instance.environment()
        variables = {**environment.variables, **jobspec.parse_envars(body.envars)}
        launcher = await self._launchers.start(words, variables, body.workdir or environment.cwd)
        answer = Launched("Job submit, see jobs table for spawned jobs.", "MANY", launcher.id)
        return json_response(answer, headers={"Location": f"/v1/launchers/{launcher.id}"})
