"""What the pages' forms do: the same as the API's routes, and then on to a page that shows what has come of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.cancel import Cancel, CancelBody
from sidecar.api.control import JobControl, SignalBody
from sidecar.api.nodes import DrainBody, Nodes
from sidecar.api.output import RAW, JobOutput
from sidecar.api.service import ServiceResource, StopBody
from sidecar.api.submit import Submit, SubmitBody
from sidecar.domain import fluid
from sidecar.domain.errors import Forbidden, InvalidRequest, Problem
from sidecar.http import decoding
from sidecar.http.audit import audit_details
from sidecar.http.body_decoding import read_form
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.web.pages import Pages
from sidecar.web.render import page, redirect

_SEEN = (Answer("On to the page that shows it", media=(), status=303),)
_ERRORS = (400, 404, 409, 413, 415, 503)
_MOST = 500  # jobs that are cancelled by one form
_REASON = 1000  # characters
_NAMED = re.compile(r"([a-z_]+): ")


class SubmitPageQuery(msgspec.Struct, kw_only=True, frozen=True):
    """What the form begins with."""

    like: Annotated[str | None, Meta(description="id of a job that is to be submitted again, with changes")] = None


class StopForm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to stop."""

    mode: Literal["now", "drain"] = "drain"
    reason: Annotated[str, Meta(max_length=_REASON)] = ""


class Forms:
    """What can be done by a form."""

    tag = "forms"

    def __init__(
        self,
        pages: Pages,
        *,
        submit: Submit,
        cancel: Cancel,
        control: JobControl,
        output: JobOutput,
        nodes: Nodes,
        service: ServiceResource,
    ) -> None:
        self._pages = pages
        self._submit = submit
        self._cancel = cancel
        self._control = control
        self._output = output
        self._nodes = nodes
        self._service = service

    # -------------------------------------------------------------------------------------------------- submit

    @operation(
        "GET",
        "/jobs/submit",
        page=True,
        scope="submit",
        query=SubmitPageQuery,
        answers=(Answer("A page", media=("text/html",)),),
        errors=(400, 404, 503),
    )
    async def form(self, request: web.Request, query: SubmitPageQuery) -> web.Response:
        """See the form for a job."""
        values: dict[str, str] = {}
        if query.like:
            values = _as_typed(await self._pages.request_of(await self._pages.read(_job_id(query.like))))
        return self._form(request, values, [])

    @operation(
        "POST",
        "/jobs/submit",
        page=True,
        scope="submit",
        answers=(*_SEEN, Answer("The form again, and what is wrong", media=("text/html",), status=400)),
        errors=(400, 403, 409, 413, 415, 422, 503),
    )
    async def submit(self, request: web.Request) -> web.Response:
        """Submit what was typed; nothing of it is lost when there is something wrong with it."""
        async with read_form(request) as form:
            typed = decoding.unique_values(form)
            given = {name: value for name, value in typed.items() if value.strip()}
            try:
                body = decoding.decode(
                    SubmitBody, given, text=frozenset(given), message="Invalid submit request", form=True
                )
                answer = await self._submit.submit(request, body)
            except Problem as exc:
                return self._form(request, typed, exc.errors, status=exc.status)
        if not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
            raise InvalidRequest("dry_run: this form submits.")
        if body.is_launcher:  # it is no job: those that it submits appear in the table
            return redirect(request, "jobs?said=launched")
        return redirect(request, f"jobs/{fluid.f58_ascii(msgspec.json.decode(answer.body)['f58id'])}")

    def _form(
        self, request: web.Request, values: Mapping[str, str], errors: list[str], *, status: int = 200
    ) -> web.Response:
        named: dict[str, list[str]] = {}
        for error in errors:
            match = _NAMED.match(error)
            named.setdefault(match[1] if match and match[1] in _FIELDS else "", []).append(error)
        around = self._pages.around(request, "submit")
        return page(request, "submit.html", status=status, **around, values=values, errors=named)

    # ---------------------------------------------------------------------------------------------------- jobs

    @operation("POST", "/jobs/cancel", page=True, scope="submit", answers=_SEEN, errors=_ERRORS)
    async def cancel_chosen(self, request: web.Request) -> web.Response:
        """Cancel the jobs that were chosen in the table."""
        async with read_form(request) as form:
            jobs = [_job_id(each) for each in form.getall("job", [])]
            view, reason = form.get("view", ""), form.get("reason", "")[:_REASON]
        if len(jobs) > _MOST:
            raise InvalidRequest(f"job: {_MOST} at most at once here; POST /v1/jobs/cancel takes filters.")
        cancelled: list[str] = []
        audit_details(
            request, jobs=cancelled
        )  # the same list: also of what is refused midway the audit has the first part
        for job in jobs:
            try:
                await self._cancel.cancel(request, job, CancelBody(reason))
            except Forbidden:
                raise
            except Problem:  # it has ended meanwhile: the table shows so
                continue
            cancelled.append(fluid.f58(job))
        return redirect(request, f"jobs{view if view.startswith('?') and view.isprintable() else ''}")

    @operation("POST", "/jobs/{uid}/cancel", page=True, scope="submit", body=CancelBody, answers=_SEEN, errors=_ERRORS)
    async def cancel(self, request: web.Request, job: int, body: CancelBody) -> web.Response:
        """Cancel a job."""
        await self._cancel.cancel(request, job, body)
        return redirect(request, f"jobs/{fluid.f58_ascii(job)}?said=cancelled")

    @operation("POST", "/jobs/{uid}/signal", page=True, scope="submit", body=SignalBody, answers=_SEEN, errors=_ERRORS)
    async def signal(self, request: web.Request, job: int, body: SignalBody) -> web.Response:
        """Send a signal to a job."""
        await self._control.signal(request, job, body)
        return redirect(request, f"jobs/{fluid.f58_ascii(job)}?said=signalled")

    @operation(
        "GET",
        "/jobs/{uid}/output",
        page=True,
        answers=(Answer("What the job has written, as a file", media=("text/plain",)),),
        errors=(400, 404, 503),
    )
    async def download(self, request: web.Request, job: int) -> web.StreamResponse:
        """Download what a job has written so far, byte by byte."""
        named = f'attachment; filename="{fluid.f58_ascii(job)}.txt"'
        return await self._output.written(
            request, job, {"Content-Type": RAW["text/plain"], "Content-Disposition": named}
        )

    # -------------------------------------------------------------------------------------- nodes, and the end

    @operation("POST", "/nodes/{name}/drain", page=True, scope="admin", body=DrainBody, answers=_SEEN, errors=_ERRORS)
    async def drain(self, request: web.Request, name: str, body: DrainBody) -> web.Response:
        """Drain a node."""
        await self._nodes.drain(request, name, body)
        return redirect(request, "nodes?said=drained")

    @operation(
        "POST", "/nodes/{name}/undrain", page=True, scope="admin", body=NoParameters, answers=_SEEN, errors=_ERRORS
    )
    async def undrain(self, request: web.Request, name: str, body: NoParameters) -> web.Response:
        """Undrain a node."""
        await self._nodes.undrain(request, name, body)
        return redirect(request, "nodes?said=undrained")

    @operation(
        "POST",
        "/stop",
        page=True,
        scope="admin",
        body=StopForm,
        answers=(Answer("How far it is", media=("text/html",)),),
        errors=(400, 409, 413, 415),
    )
    async def stop(self, request: web.Request, body: StopForm) -> web.Response:
        """Stop the instance; the answer is the page itself, for there may be nobody left to ask for another."""
        await self._service.stop(request, StopBody(mode=body.mode, reason=body.reason))
        return page(request, "stop.html", **self._pages.around(request, "stop"))


_FIELDS = frozenset(SubmitBody.__struct_fields__)


def _job_id(text: str) -> int:
    try:
        return fluid.parse(text)
    except ValueError as exc:
        raise InvalidRequest(f"{exc}.") from None


def _as_typed(asked: dict[str, Any]) -> dict[str, str]:
    """Return what a person would have typed into the form for a job."""
    typed = {}
    for name, value in asked.items():
        if isinstance(value, list):
            typed[name] = shlex.join(value)
        else:
            typed[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return typed
