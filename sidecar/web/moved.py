"""Redirect the addresses of the predecessor's pages."""

from __future__ import annotations

from aiohttp import web

from sidecar.domain import fluid
from sidecar.http.operations import Answer, operation
from sidecar.web.render import redirect

_MOVED = (Answer("Moved", media=(), status=303),)


class MovedPages:
    """Redirect old addresses."""

    tag = "pages"

    @operation("GET", "/job/{uid}", page=True, answers=_MOVED, errors=(400,))
    async def old_job(self, request: web.Request, jobid: int) -> web.Response:
        """Redirect to a job's page."""
        return redirect(request, f"jobs/{fluid.f58_ascii(jobid)}")

    @operation("GET", "/job/{uid}/cancel", page=True, answers=_MOVED, errors=(400,))
    async def old_cancel(self, request: web.Request, jobid: int) -> web.Response:
        """Redirect to a job's page, which has the cancel button: following a link must not change anything."""
        return redirect(request, f"jobs/{fluid.f58_ascii(jobid)}")

    @operation("GET", "/logout", scope=None, answers=_MOVED, errors=(400,))
    async def old_logout(self, request: web.Request) -> web.Response:
        """Redirect to the overview, which has the logout button: a link from another site must not log out a user."""
        return redirect(request, "")

    @operation("GET", "/page/{name}", page=True, answers=_MOVED, errors=(400,))
    async def old_page(self, request: web.Request, name: str) -> web.Response:
        """Redirect to the overview."""
        return redirect(request, "")
