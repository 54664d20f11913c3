"""``/v1/launchers``: workflow launchers that run beside the server."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.fields import Message
from sidecar.api.lines import OutputBody
from sidecar.auth.guard import caller_of
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.services.launchers import Launcher, Launchers


class LauncherList(msgspec.Struct):
    """All launchers."""

    launchers: Annotated[list[Launcher], Meta(description="newest first")]


class LauncherCancelled(msgspec.Struct):
    """The launcher was sent SIGTERM."""

    Message: Message
    id: Annotated[int, Meta(description="number of the launcher")]


class LauncherResource:
    """List, read and cancel launchers.

    Args:
        launchers: runs them.
    """

    tag = "launchers"

    def __init__(self, launchers: Launchers) -> None:
        self._launchers = launchers

    @operation("GET", "/v1/launchers", answers=(Answer("All launchers", LauncherList),), errors=(400,))
    async def list(self, request: web.Request) -> LauncherList:
        """List launchers, newest first."""
        return LauncherList(self._launchers.all())

    @operation("GET", "/v1/launchers/{number}", answers=(Answer("The launcher", Launcher),), errors=(400, 404))
    async def get(self, request: web.Request, number: int) -> Launcher:
        """Read one launcher."""
        return self._launchers.get(number)

    @operation(
        "GET",
        "/v1/launchers/{number}/output",
        answers=(Answer("The last lines of its output, stdout and stderr", OutputBody),),
        errors=(400, 404, 503),
    )
    async def output(self, request: web.Request, number: int) -> OutputBody:
        """Read the end of a launcher's output."""
        return OutputBody(await self._launchers.output(number))

    @operation(
        "POST",
        "/v1/launchers/{number}/cancel",
        scope="submit",
        body=NoParameters,
        answers=(Answer("The launcher was sent SIGTERM", LauncherCancelled),),
        errors=(400, 404, 409, 413, 415),
    )
    async def cancel(self, request: web.Request, number: int, body: Any) -> LauncherCancelled:
        """End a launcher; the jobs that it has submitted continue."""
        caller_of(request).require_own(self._launchers.get(number).submitter, f"Launcher {number}")
        self._launchers.cancel(number)
        return LauncherCancelled("Launcher is requested to cancel.", number)
