"""What describes the API, for machines and for people, and the vendored files that its page needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from aiohttp import web

from sidecar import openapi
from sidecar.api import html
from sidecar.api.routing import Answer, Operation, operation

_ROOT = Path(str(resources.files("sidecar.web"))) / "static"
_STATIC = {str(file.relative_to(_ROOT)): file for file in _ROOT.rglob("*") if file.is_file()}
_VENDORED = {"Cache-Control": "private, max-age=3600"}


class Documents:
    """The contract.

    Args:
        operations: gives those that this server has.
        open_to_all: whether callers are not asked who they are.
        no_auth: whether that was written out.
    """

    tag = "documents"

    def __init__(self, operations: Callable[[], Sequence[Operation]], *, open_to_all: bool, no_auth: bool) -> None:
        self._operations = operations
        self._open_to_all = open_to_all
        self._notice = html.NO_AUTH if no_auth else ""

    @operation("GET", "/openapi.json", answers=(Answer("OpenAPI 3.1", dict[str, Any]),), errors=(400,))
    async def openapi(self, request: web.Request) -> dict[str, Any]:
        """Read this API's OpenAPI document."""
        return openapi.document(self._operations(), open_to_all=self._open_to_all)

    @operation("GET", "/docs", answers=(Answer("A page", media=("text/html",)),), errors=(400,))
    async def docs(self, request: web.Request) -> web.Response:
        """Browse this API; everything that the page needs comes from this server."""
        page = Template(resources.files("sidecar.web").joinpath("docs.html").read_text())
        return html.response(page.substitute(notice=self._notice))


async def static(request: web.Request) -> web.FileResponse:
    """Send a vendored file. Only names that are there can be asked for, so no path leads elsewhere."""
    file = _STATIC.get(request.match_info["path"])
    if file is None:
        raise web.HTTPNotFound
    return web.FileResponse(file, headers=_VENDORED)
