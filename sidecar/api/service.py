"""``/v1/service``, its stop, and the probes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from aiohttp import web
from msgspec import Meta

import sidecar
from sidecar.api import fresh
from sidecar.api.fields import Message
from sidecar.auth.guard import caller_of
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
    "waiting": "The service will stop once the instance runs, or when --start-timeout is over.",
    "draining": "The service stops when all jobs have finished; no new jobs are accepted.",
    "stopping": "The service is stopping.",
    "stopped": "The service has stopped.",
}


class StopBody(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a stop."""

    mode: Annotated[Mode, Meta(description="now: running jobs are cancelled; drain: all jobs finish first")] = "now"
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
    force: Annotated[
        bool, Meta(description="shut down even if another initial program runs, which makes flux start fail")
    ] = False
    reason: Annotated[str, Meta(max_length=1000, description="shown by GET /v1/service and in the log")] = ""


class HistoryBody(msgspec.Struct):
    """The history: the jobs that had ended before the server was connected."""

    complete: Annotated[bool, Meta(description="whether all of them are read; until then lists lack some")]
    read: Annotated[int, Meta(description="number of jobs that were read")]
    total: Annotated[int, Meta(description="number of jobs that there are; 0 while it is not known")]


class ServiceBody(Service, omit_defaults=False, kw_only=True):
    """The service and the instance that it serves."""

    version: Annotated[str, Meta(description="version of flux-sidecar")]
    auth: Annotated[bool, Meta(description="whether callers need a credential")]
    no_auth: Annotated[bool, Meta(description="whether the server was started with --no-auth: every client is admin")]
    ready: Annotated[bool, Meta(description="whether all checks of /readyz pass")]
    idle_stop: Annotated[
        float | None, Meta(description="idle seconds after which the instance is stopped; null: never (--idle-stop)")
    ]
    idle_left: Annotated[
        float | None, Meta(description="seconds left until then if the instance stays idle; null while it is in use")
    ]
    instance: Annotated[Status, Meta(description="the instance and the connection to it")]
    history: Annotated[HistoryBody, Meta(description="how far the history of jobs is read")]


class Stopping(msgspec.Struct):
    """A stop has started."""

    Message: Message
    state: Annotated[str, Meta(description="state of the service: waiting, draining, stopping or stopped")]
    mode: Annotated[str, Meta(description="mode of the stop: now or drain")]
    active_jobs: Annotated[int, Meta(description="jobs that have not ended")]


class LivezQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The form of the response."""

    verbose: Annotated[str | None, Meta(description="list each check with its age; needs no value")] = None


class ReadyzQuery(LivezQuery, frozen=True):
    """The form of the response."""


class AuthMode(NamedTuple):
    """How the server authenticates its callers."""

    authenticates: bool
    """Whether callers need a credential."""
    no_auth: bool
    """Whether the server was started with --no-auth."""


class ServiceResource:
    """Read and stop the service.

    Args:
        lifecycle: stops it.
        feed: the journal, which has the barrier for reads.
        instance: the instance that is served.
        health: the checks of the probes.
        idle: the idle stop.
        auth: how callers are authenticated.
    """

    tag = "service"

    def __init__(
        self,
        lifecycle: Lifecycle,
        feed: Feed,
        instance: Instance,
        health: Health,
        idle: IdleStop,
        auth: AuthMode,
    ) -> None:
        self._auth = auth
        self._lifecycle = lifecycle
        self._feed = feed
        self._instance = instance
        self._health = health
        self._idle = idle

    @operation("GET", "/v1/service", use=False, answers=(Answer("The service", ServiceBody),), errors=(400,))
    async def get(self, request: web.Request) -> ServiceBody:
        """Read the state of the service, of the instance, and of a stop in progress.

        This request does not reset --idle-stop. It works while the store cannot be written: the counts then come from
        the job events received so far.
        """
        await fresh.settle_briefly(request, self._feed)
        progress = self._feed.history.progress
        return ServiceBody(
            **msgspec.structs.asdict(self._lifecycle.service()),
            version=sidecar.__version__,
            auth=self._auth.authenticates,
            no_auth=self._auth.no_auth,
            ready=not any(check.problem for check in self._health.ready()),
            idle_stop=self._idle.after,
            idle_left=self._idle.left,
            instance=self._instance.status,
            history=HistoryBody(self._feed.caught_up, progress.read, progress.total),
        )

    @operation(
        "POST",
        "/v1/service/stop",
        scope="admin",
        body=StopBody,
        answers=(Answer("The stop has started; GET /v1/service shows its progress", Stopping, status=202),),
        errors=(400, 409, 413, 415),
    )
    async def stop(self, request: web.Request, body: StopBody) -> web.Response:
        """Stop the instance, so that flux start ends with exit code 0.

        A second stop has the same response as the first; a stop with mode now ends a drain early.
        """
        audit_details(request, mode=body.mode, force=body.force)
        by = caller_of(request).name or "anonymous"
        self._lifecycle.stop(body.mode, by=by, timeout=body.timeout, force=body.force, reason=body.reason)
        service = self._lifecycle.service()
        message = _MESSAGES[service.state]
        if service.state == "waiting" and service.waits_for:
            message += f" The instance does not run yet: {service.waits_for}"
        stopping = Stopping(message, service.state, service.mode or body.mode, service.active_jobs)
        return json_response(stopping, status=202)

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
        """Check whether the server works; after a failure only a restart helps."""
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
        """Check whether commands are accepted and all active jobs are known.

        With `verbose` it shows how far the history of ended jobs is read.

        The response does not wait: slow checks run in the background, and their last results are shown with their age.
        """
        return _probed("readyz", self._health.ready(), query.verbose)


def _probed(name: str, checks: Sequence[Check], verbose: str | None) -> web.Response:
    """Return the response to a probe.

    Raises:
        Unavailable: a check has failed; with ``verbose`` its errors list all checks.
    """
    problems = [check.problem for check in checks if check.problem]
    lines = [str(check) for check in checks]
    if problems:
        raise Unavailable(" ".join(problems), errors=problems if verbose is None else lines)
    if verbose is None:
        return web.Response(text="ok\n")
    return web.Response(text="\n".join([*lines, f"{name} check passed\n"]))
