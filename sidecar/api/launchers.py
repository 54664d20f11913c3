"""``/v1/launchers``: workflow launchers that run beside the server."""

from __future__ import annotations

from typing import Any

import msgspec
from aiohttp import web

from sidecar.api.lines import OutputBody
from sidecar.auth.guard import caller_of
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.services.launchers import Launcher, Launchers


class LauncherList(msgspec.Struct):
    """All launchers, newest first."""

    launchers: list[Launcher]


class LauncherCancelled(msgspec.Struct):
    """The answer to a cancel."""

    Message: str
    id: int


class LauncherResource:
    """Launchers, followed to their end."""

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
        answers=(Answer("The last lines that it wrote, both streams", OutputBody),),
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
        answers=(Answer("It was sent SIGTERM", LauncherCancelled),),
        errors=(400, 404, 409, 413, 415),
    )
    async def cancel(self, request: web.Request, number: int, body: Any) -> LauncherCancelled:
        """End a launcher; the jobs that it has submitted go on."""
        caller_of(request).require_own(self._launchers.get(number).submitter, f"Launcher {number}")
        self._launchers.cancel(number)
        return LauncherCancelled("Launcher is requested to cancel.", number)
