"""``/v1/service``, the stop, and the probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

import sidecar
from sidecar.api import fresh
from sidecar.auth.guard import CALLER
from sidecar.domain.durations import AS_TEXT
from sidecar.domain.errors import Unavailable
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import json_response
from sidecar.instance import Instance, Status
from sidecar.journal.feed import Feed
from sidecar.services.checks import Check
from sidecar.services.health import Health
from sidecar.services.idle import IdleStop
from sidecar.services.lifecycle import Lifecycle, Service
from sidecar.services.stop import Mode

_MESSAGES = {
    "waiting": "The service will stop as soon as the instance runs, or when --start-timeout is over.",
    "draining": "The service stops when the jobs that there are have finished; no new ones are accepted.",
    "stopping": "The service is stopping.",
    "stopped": "The service has stopped.",
}


class StopBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to stop."""

    mode: Annotated[Mode, Meta(description="now: running jobs are cancelled; drain: they finish first")] = "now"
    timeout: (
        Annotated[
            float,
            Meta(
                ge=0,
                description=f"seconds, {AS_TEXT}, after which a drain becomes now; absent: never",
                extra={"duration": True},
            ),
        ]
        | None
    ) = None
    force: Annotated[bool, Meta(description="shut down although another initial program runs")] = False
    reason: Annotated[str, Meta(max_length=1000)] = ""


class ServiceBody(Service, omit_defaults=False, kw_only=True):
    """The service, and the instance that it serves."""

    version: str
    auth: Annotated[bool, Meta(description="whether callers have to say who they are")]
    no_auth: Annotated[bool, Meta(description="whether it was started with --no-auth: whoever reaches it is admin")]
    ready: bool
    idle_stop: Annotated[float | None, Meta(description="after how many idle seconds the instance is stopped")]
    idle_left: Annotated[float | None, Meta(description="how many of them are left; null while it is used")]
    instance: Status


class Stopping(msgspec.Struct):
    """The answer to a stop."""

    Message: str
    state: str
    mode: str
    active_jobs: int


class LivezQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """How much to say."""

    verbose: Annotated[str | None, Meta(description="tell each check, with its age; needs no value")] = None


class ReadyzQuery(LivezQuery, frozen=True):
    """The same of readiness."""


class ServiceResource:
    """The service itself."""

    tag = "service"

    def __init__(
        self,
        lifecycle: Lifecycle,
        feed: Feed,
        instance: Instance,
        health: Health,
        idle: IdleStop,
        *,
        authenticates: bool,
        no_auth: bool,
    ) -> None:
        self._authenticates = authenticates
        self._no_auth = no_auth
        self._lifecycle = lifecycle
        self._feed = feed
        self._instance = instance
        self._health = health
        self._idle = idle

    @operation("GET", "/v1/service", use=False, answers=(Answer("The service", ServiceBody),), errors=(400,))
    async def get(self, request: web.Request) -> ServiceBody:
        """Read the state of the service: of the instance, and of a stop under way.

        This request does not reset --idle-stop: idle_left counts down meanwhile. It is answered also while nothing can
        be stored; the counts then come from the job events that have arrived.
        """
        await fresh.settle_for_a_moment(request, self._feed)
        return ServiceBody(
            **msgspec.structs.asdict(self._lifecycle.service()),
            version=sidecar.__version__,
            auth=self._authenticates,
            no_auth=self._no_auth,
            ready=not any(check.problem for check in self._health.ready()),
            idle_stop=self._idle.after,
            idle_left=self._idle.left,
            instance=self._instance.status,
        )

    @operation(
        "POST",
        "/v1/service/stop",
        scope="admin",
        body=StopBody,
        answers=(Answer("The stop has begun; GET /v1/service shows its progress", Stopping, status=202),),
        errors=(400, 409, 413, 415),
    )
    async def stop(self, request: web.Request, body: StopBody) -> web.Response:
        """Stop the instance, so that flux start ends with exit code 0.

        A second stop is answered like the first; now cuts a drain short.
        """
        audit_details(request, mode=body.mode, force=body.force)
        by = request[CALLER].name or "anonymous"
        self._lifecycle.stop(body.mode, by=by, timeout=body.timeout, force=body.force, reason=body.reason)
        service = self._lifecycle.service()
        message = _MESSAGES[service.state]
        if service.state == "waiting" and service.waits_for:
            message += f" It does not run yet: {service.waits_for}"
        answer = Stopping(message, service.state, service.mode or body.mode, service.active_jobs)
        return json_response(answer, status=202)

    @operation(
        "GET",
        "/livez",
        scope=None,
        use=False,
        quiet=True,
        port="both",
        query=LivezQuery,
        answers=(Answer("The server works", media=("text/plain",)),),
        errors=(400, 503),
    )
    async def livez(self, request: web.Request, query: LivezQuery) -> web.Response:
        """Say whether the server works; a failure means that only a restart will help."""
        return _probed("livez", self._health.live(), query.verbose)

    @operation(
        "GET",
        "/readyz",
        scope=None,
        use=False,
        quiet=True,
        port="both",
        query=ReadyzQuery,
        answers=(Answer("The server is ready", media=("text/plain",)),),
        errors=(400, 503),
    )
    async def readyz(self, request: web.Request, query: ReadyzQuery) -> web.Response:
        """Say whether commands are taken and lists are complete.

        Nothing is waited for: what takes long is looked after in the background, and told with its age.
        """
        return _probed("readyz", self._health.ready(), query.verbose)


def _probed(name: str, checks: Sequence[Check], verbose: str | None) -> web.Response:
    """Answer a probe.

    Raises:
        Unavailable: a check has failed; asked for all of them, its errors are all of them.
    """
    problems = [check.problem for check in checks if check.problem]
    lines = [str(check) for check in checks]
    if problems:
        raise Unavailable(" ".join(problems), errors=problems if verbose is None else lines)
    if verbose is None:
        return web.Response(text="ok\n")
    return web.Response(text="\n".join([*lines, f"{name} check passed\n"]))
