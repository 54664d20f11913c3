"""The forms of the pages: commands on jobs and nodes, and the stop. Most redirect to a page that shows the effect."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.cancel import CancelBody
from sidecar.api.control import SignalBody
from sidecar.api.lines import bytes_of
from sidecar.api.nodes import DrainBody
from sidecar.api.output import RAW
from sidecar.auth.guard import caller_of
from sidecar.domain import fluid
from sidecar.domain.errors import Forbidden, InvalidRequest, Problem
from sidecar.http.audit import audit_details
from sidecar.http.body_decoding import read_form
from sidecar.http.operations import Answer, operation
from sidecar.http.path_variables import parse_jobid
from sidecar.http.routing import NoParameters
from sidecar.http.streaming import stream_chunks
from sidecar.services import job_signals
from sidecar.services.job_commands import JobCommands
from sidecar.services.job_output import JobOutputs
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.node_admin import NodeAdmin
from sidecar.web.layout import Layout
from sidecar.web.render import redirect, render_page

_DONE = (Answer("On to the page that shows it", media=(), status=303),)
_ERRORS = (400, 404, 409, 413, 415, 503)
_MOST = 500  # jobs that one form cancels
_REASON = 1000  # characters


class StopForm(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Options of a stop."""

    mode: Annotated[Literal["now", "drain"], Meta(description="as for POST /v1/service/stop")] = "drain"
    reason: Annotated[str, Meta(max_length=_REASON, description="as for POST /v1/service/stop")] = ""


class JobForms:
    """Cancel and signal jobs, and download their output.

    Args:
        commands: carries out the commands.
        outputs: opens the output of a job.
    """

    tag = "forms"

    def __init__(self, commands: JobCommands, outputs: JobOutputs) -> None:
        self._commands = commands
        self._outputs = outputs

    @operation("POST", "/jobs/cancel", page=True, scope="submit", answers=_DONE, errors=_ERRORS)
    async def cancel_chosen(self, request: web.Request) -> web.Response:
        """Cancel the jobs that were selected in the table."""
        async with read_form(request) as form:
            jobids = [parse_jobid(text) for text in form.getall("job", [])]
            view, reason = form.get("view", ""), form.get("reason", "")[:_REASON]
        if len(jobids) > _MOST:
            raise InvalidRequest(f"job: at most {_MOST} jobs at once; use POST /v1/jobs/cancel with filters for more.")
        cancelled: list[str] = []
        audit_details(request, jobs=cancelled)  # filled below, so that the audit names them also after an error
        for jobid in jobids:
            try:
                await self._commands.cancel(jobid, reason, caller_of(request))
            except Forbidden:
                raise
            except Problem:  # for instance it has ended, as the table shows then
                continue
            cancelled.append(fluid.f58(jobid))
        return redirect(request, f"jobs{view if view.startswith('?') and view.isprintable() else ''}")

    @operation("POST", "/jobs/{uid}/cancel", page=True, scope="submit", body=CancelBody, answers=_DONE, errors=_ERRORS)
    async def cancel(self, request: web.Request, jobid: int, body: CancelBody) -> web.Response:
        """Cancel a job."""
        await self._commands.cancel(jobid, body.reason, caller_of(request))
        return redirect(request, f"jobs/{fluid.f58_ascii(jobid)}?said=cancelled")

    @operation("POST", "/jobs/{uid}/signal", page=True, scope="submit", body=SignalBody, answers=_DONE, errors=_ERRORS)
    async def signal(self, request: web.Request, jobid: int, body: SignalBody) -> web.Response:
        """Send a signal to a job."""
        number = job_signals.parse(body.signal)
        audit_details(request, signal=job_signals.name_of(number))
        await self._commands.signal(jobid, number, caller_of(request))
        return redirect(request, f"jobs/{fluid.f58_ascii(jobid)}?said=signalled")

    @operation(
        "GET",
        "/jobs/{uid}/output",
        page=True,
        answers=(Answer("The job's output, as a file", media=("text/plain",)),),
        errors=(400, 404, 503),
    )
    async def download(self, request: web.Request, jobid: int) -> web.StreamResponse:
        """Download the output of a job so far, byte by byte."""
        opened = await self._outputs.open(jobid)
        disposition = f'attachment; filename="{fluid.f58_ascii(jobid)}.txt"'
        headers = {"Content-Type": RAW["text/plain"], "Content-Disposition": disposition}
        return await stream_chunks(request, bytes_of(opened.cursor(), opened.end, "both"), headers)


class AdminForms:
    """Drain and undrain nodes, and stop the instance.

    Args:
        nodes: changes the nodes.
        lifecycle: stops the instance.
        layout: the frame of the page.
    """

    tag = "forms"

    def __init__(self, nodes: NodeAdmin, lifecycle: Lifecycle, layout: Layout) -> None:
        self._nodes = nodes
        self._lifecycle = lifecycle
        self._layout = layout

    @operation("POST", "/nodes/{name}/drain", page=True, scope="admin", body=DrainBody, answers=_DONE, errors=_ERRORS)
    async def drain(self, request: web.Request, name: str, body: DrainBody) -> web.Response:
        """Drain a node."""
        await self._nodes.drain(name, body.reason or "")
        return redirect(request, "nodes?said=drained")

    @operation(
        "POST", "/nodes/{name}/undrain", page=True, scope="admin", body=NoParameters, answers=_DONE, errors=_ERRORS
    )
    async def undrain(self, request: web.Request, name: str, body: NoParameters) -> web.Response:
        """Undrain a node."""
        await self._nodes.undrain(name)
        return redirect(request, "nodes?said=undrained")

    @operation(
        "POST",
        "/stop",
        page=True,
        scope="admin",
        body=StopForm,
        answers=(Answer("The progress of the stop", media=("text/html",)),),
        errors=(400, 409, 413, 415),
    )
    async def stop(self, request: web.Request, body: StopForm) -> web.Response:
        """Stop the instance; the response is a page, not a redirect: the server may not exist for another request."""
        audit_details(request, mode=body.mode, force=False)
        self._lifecycle.stop(body.mode, by=caller_of(request).name or "anonymous", reason=body.reason)
        return render_page(request, "stop.html", **self._layout.values("stop"))
