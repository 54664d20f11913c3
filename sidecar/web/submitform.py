"""The form that submits a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.fields import INVALID_SUBMIT
from sidecar.api.submit import SubmitBody
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid
from sidecar.domain.errors import InvalidRequest, Problem
from sidecar.http import decoding
from sidecar.http.audit import audit_details
from sidecar.http.body_decoding import read_form
from sidecar.http.operations import Answer, operation
from sidecar.http.path_variables import parse_jobid
from sidecar.services.lookup import JobLookup
from sidecar.services.submit import SubmitService
from sidecar.store import Store
from sidecar.web.layout import Layout
from sidecar.web.render import redirect, render_page
from sidecar.web.resubmit import form_values, request_of

_NAMED = re.compile(r"([a-z_]+): ")
_FIELDS = frozenset(SubmitBody.__struct_fields__)


class SubmitPageQuery(msgspec.Struct, kw_only=True, frozen=True):
    """The initial values of the form."""

    like: Annotated[str | None, Meta(description="ID of a job to submit again, with changes")] = None


class SubmitForm:
    """Show the submit form, and process it.

    Args:
        service: accepts jobs and launchers.
        lookup: finds the job to submit again.
        store: holds its jobspec.
        layout: the frame of the page.
    """

    tag = "forms"

    def __init__(self, service: SubmitService, lookup: JobLookup, store: Store, layout: Layout) -> None:
        self._service = service
        self._lookup = lookup
        self._store = store
        self._layout = layout

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
        """Show the submit form."""
        values: dict[str, str] = {}
        if query.like:
            jobid = parse_jobid(query.like)
            job = await self._lookup.job(jobid)
            values = form_values(request_of(job, await self._store.jobspec(jobid) or b"{}"))
        return self._page(request, values, [])

    @operation(
        "POST",
        "/jobs/submit",
        page=True,
        scope="submit",
        answers=(
            Answer("On to the page that shows it", media=(), status=303),
            Answer("The form again, with the errors", media=("text/html",), status=400),
        ),
        errors=(400, 403, 409, 413, 415, 422, 503),
    )
    async def submit(self, request: web.Request) -> web.Response:
        """Submit the job of the form; after an error the form keeps its values."""
        async with read_form(request) as form:
            values = decoding.unique_values(form)
            given = {name: value for name, value in values.items() if value.strip()}
            try:
                return await self._submit(request, given)
            except Problem as exc:
                return self._page(request, values, exc.errors, status=exc.status)

    async def _submit(self, request: web.Request, given: dict[str, str]) -> web.Response:
        body = decoding.decode(SubmitBody, given, text=frozenset(given), message=INVALID_SUBMIT, form=True)
        caller = caller_of(request)
        if body.is_launcher:  # the jobs that it submits appear in the table
            launcher = await self._service.launch(body, None, caller)
            audit_details(request, launcher=launcher.id, program=launcher.command[0])
            return redirect(request, "jobs?said=launched")
        if body.dry_run:
            raise InvalidRequest("dry_run: this form submits the job; leave dry_run out.")
        job = await self._service.submit(body, None, caller)
        audit_details(request, job=job.f58id, replayed=job.replayed)
        return redirect(request, f"jobs/{fluid.f58_ascii(job.id)}")

    def _page(
        self, request: web.Request, values: Mapping[str, str], errors: list[str], *, status: int = 200
    ) -> web.Response:
        by_field: dict[str, list[str]] = {}
        for error in errors:
            match = _NAMED.match(error)
            by_field.setdefault(match[1] if match and match[1] in _FIELDS else "", []).append(error)
        layout = self._layout.values("submit")
        return render_page(request, "submit.html", status=status, **layout, values=values, errors=by_field)
