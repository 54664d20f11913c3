"""Control of a job that is there: its signal, its urgency."""

from __future__ import annotations

import signal
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.lookup import require_own
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid, untrusted
from sidecar.domain.errors import Conflict, InvalidRequest
from sidecar.domain.model import HIGHEST_URGENCY, URGENCIES
from sidecar.http.audit import audit_details
from sidecar.http.faults import quote
from sidecar.http.operations import Answer, operation
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.store import Store

_ERRORS = (400, 404, 409, 413, 415, 503)

_LAST_SIGNAL = 64
_NAMED = {name: int(number) for name, number in signal.Signals.__members__.items()}
_REAL_TIME = {f"SIGRTMIN+{n - signal.SIGRTMIN}": n for n in range(signal.SIGRTMIN + 1, signal.SIGRTMAX)}
_SIGNALS = _NAMED | _REAL_TIME
_NAMES = {number: name for name, number in _REAL_TIME.items()} | {int(n): n.name for n in signal.Signals}


class SignalBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which signal to send."""

    signal: Annotated[
        Annotated[int, Meta(ge=1, le=_LAST_SIGNAL)] | str,
        Meta(description="a name, SIGUSR1 or usr1, or a number"),
    ]


class Signalled(msgspec.Struct):
    """The answer to a signal; ``signal`` is its name."""

    Message: str
    id: int
    f58id: str
    signal: str


class UrgencyBody(msgspec.Struct, forbid_unknown_fields=True):
    """How urgent the job is from now on."""

    urgency: Annotated[
        Annotated[int, Meta(ge=0, le=HIGHEST_URGENCY)] | str,
        Meta(description="0 to 31, or hold (0), default (16), expedite (31)"),
    ]


class Reprioritized(msgspec.Struct):
    """The answer to a new urgency."""

    Message: str
    id: int
    f58id: str
    old_urgency: int
    urgency: int


class JobControl:
    """Signals and urgencies of jobs."""

    tag = "jobs"

    def __init__(self, store: Store, feed: Feed, instance: Instance) -> None:
        self._store = store
        self._feed = feed
        self._instance = instance

    @operation(
        "POST",
        "/v1/jobs/{uid}/signal",
        scope="submit",
        body=SignalBody,
        answers=(Answer("The signal was sent", Signalled),),
        errors=_ERRORS,
    )
    async def signal(self, request: web.Request, job: int, body: SignalBody) -> Signalled:
        """Send a signal to every task of a running job.

        Answers once Flux has sent it on; as with kill(1), nobody says what the tasks make of it.
        """
        number = _signal_number(body.signal)
        await self._require_active(request, job, "signalled")
        audit_details(request, signal=_NAMES.get(number, str(number)))
        await self._instance.send_signal(job, number)
        self._feed.barrier.note_command(job, caller_of(request).name)
        return Signalled("Job is sent the signal.", job, fluid.f58(job), _NAMES.get(number, str(number)))

    @operation(
        "POST",
        "/v1/jobs/{uid}/urgency",
        scope="submit",
        body=UrgencyBody,
        answers=(Answer("The job has the new urgency", Reprioritized),),
        errors=_ERRORS,
    )
    async def urgency(self, request: web.Request, job: int, body: UrgencyBody) -> Reprioritized:
        """Change the urgency of a pending job: hold it, release it, let it overtake others."""
        urgency = _urgency_number(body.urgency)
        caller_of(request).require_urgency(urgency)
        await self._require_active(request, job, "reprioritized")
        audit_details(request, urgency=urgency)
        old = await self._instance.set_urgency(job, urgency)
        self._feed.barrier.note_command(job, caller_of(request).name)
        return Reprioritized("Job has the new urgency.", job, fluid.f58(job), old, urgency)

    async def _require_active(self, request: web.Request, job: int, what: str) -> None:
        """Refuse what is certain: any other state may be another one by now, which only the instance knows."""
        if await require_own(self._store, self._feed, job, caller_of(request)) == "INACTIVE":
            raise Conflict(f"Job cannot be {what}: {fluid.f58(job)} has ended already.")


def _signal_number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    name = value.strip().upper()
    if (number := untrusted.digits(name)) is not None and 1 <= number <= _LAST_SIGNAL:
        return number
    found = _SIGNALS.get(name) or _SIGNALS.get(f"SIG{name}")
    if found is None:
        raise InvalidRequest(
            f"signal: {quote(value)} is not a signal; use 1 to {_LAST_SIGNAL}, SIGRTMIN+1 to "
            f"SIGRTMIN+{len(_REAL_TIME)}, or {', '.join(_NAMED)} (with or without SIG)."
        )
    return found


def _urgency_number(value: int | str) -> int:
    if isinstance(value, int):
        return value
    word = value.strip().lower()
    number = URGENCIES.get(word, untrusted.digits(word))
    if number is None or number > HIGHEST_URGENCY:
        words = ", ".join(f"{word} ({number})" for word, number in URGENCIES.items())
        raise InvalidRequest(f"urgency: {quote(value)} is not an urgency; use 0 to {HIGHEST_URGENCY}, or {words}.")
    return number
