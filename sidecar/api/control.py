"""``/v1/jobs/{uid}/signal`` and ``/v1/jobs/{uid}/urgency``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.fields import F58, JobID, Message
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid, untrusted
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import HIGHEST_URGENCY, URGENCIES
from sidecar.http.audit import audit_details
from sidecar.http.faults import quote
from sidecar.http.operations import Answer, operation
from sidecar.services import job_signals
from sidecar.services.job_commands import JobCommands

_ERRORS = (400, 404, 409, 413, 415, 503)


class SignalBody(msgspec.Struct, forbid_unknown_fields=True):
    """The signal to send."""

    signal: Annotated[
        Annotated[int, Meta(ge=1, le=job_signals.LAST)] | str,
        Meta(description="a name such as SIGUSR1 or usr1, or a number"),
    ]


class Signalled(msgspec.Struct):
    """Flux has forwarded the signal."""

    Message: Message
    id: JobID
    f58id: F58
    signal: Annotated[str, Meta(description="name of the signal; its number where it has no name")]


class UrgencyBody(msgspec.Struct, forbid_unknown_fields=True):
    """The new urgency."""

    urgency: Annotated[
        Annotated[int, Meta(ge=0, le=HIGHEST_URGENCY)] | str,
        Meta(description="0 to 31, or hold (0), default (16), expedite (31)"),
    ]


class Reprioritized(msgspec.Struct):
    """The job has the new urgency."""

    Message: Message
    id: JobID
    f58id: F58
    old_urgency: Annotated[int, Meta(description="urgency before the change")]
    urgency: Annotated[int, Meta(description="urgency after the change")]


class JobControl:
    """Send signals to jobs and change their urgency.

    Args:
        commands: carries out the changes.
    """

    tag = "jobs"

    def __init__(self, commands: JobCommands) -> None:
        self._commands = commands

    @operation(
        "POST",
        "/v1/jobs/{uid}/signal",
        scope="submit",
        body=SignalBody,
        answers=(Answer("The signal was sent", Signalled),),
        errors=_ERRORS,
    )
    async def signal(self, request: web.Request, jobid: int, body: SignalBody) -> Signalled:
        """Send a signal to every task of a running job.

        The response is sent once Flux has forwarded the signal. As with kill(1), it does not say how the tasks react.
        """
        number = job_signals.parse(body.signal)
        audit_details(request, signal=job_signals.name_of(number))
        await self._commands.signal(jobid, number, caller_of(request))
        return Signalled("Job is sent the signal.", jobid, fluid.f58(jobid), job_signals.name_of(number))

    @operation(
        "POST",
        "/v1/jobs/{uid}/urgency",
        scope="submit",
        body=UrgencyBody,
        answers=(Answer("The job has the new urgency", Reprioritized),),
        errors=_ERRORS,
    )
    async def urgency(self, request: web.Request, jobid: int, body: UrgencyBody) -> Reprioritized:
        """Change the urgency of a pending job: hold it, release it, or move it ahead of other jobs."""
        urgency = _urgency_number(body.urgency)
        audit_details(request, urgency=urgency)
        old = await self._commands.set_urgency(jobid, urgency, caller_of(request))
        return Reprioritized("Job has the new urgency.", jobid, fluid.f58(jobid), old, urgency)


def _urgency_number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    word = value.strip().lower()
    number = URGENCIES.get(word, untrusted.digits(word))
    if number is None or number > HIGHEST_URGENCY:
        words = ", ".join(f"{word} ({number})" for word, number in URGENCIES.items())
        raise InvalidRequest(f"urgency: invalid urgency {quote(value)}; use 0 to {HIGHEST_URGENCY}, or {words}.")
    return number
