"""The OpenAPI document, the page that shows it, and the static files."""

from __future__ import annotations

import asyncio
import hashlib
import mimetypes
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import msgspec
from aiohttp import web

import sidecar
from sidecar.http import conditional, html, openapi
from sidecar.http.operations import Answer, Operation, operation

_ROOT = Path(str(resources.files("sidecar.web"))) / "static"
_PAGE = Template(resources.files("sidecar.web").joinpath("docs.html").read_text())
_STATIC = {str(file.relative_to(_ROOT)): file for file in _ROOT.rglob("*") if file.is_file()}
_VENDORED = {"Cache-Control": "private, max-age=3600"}
_JSON = {"Content-Type": "application/json", "Cache-Control": "private, no-cache"}  # cached, but always revalidated
_UNKNOWN_TYPE = "application/octet-stream"


class Documents:
    """Serve the OpenAPI document and its page.

    Args:
        operations: returns the operations of this server.
        open_to_all: whether the server accepts requests without a credential.
        no_auth: whether the page warns that the server was started with --no-auth.
    """

    tag = "documents"

    def __init__(self, operations: Callable[[], Sequence[Operation]], *, open_to_all: bool, no_auth: bool) -> None:
        self._operations = operations
        self._open_to_all = open_to_all
        self._notice = html.NO_AUTH if no_auth else ""
        self._document, self._tag = b"", ""

    @operation("GET", "/openapi.json", answers=(Answer("OpenAPI 3.1", dict[str, Any]),), errors=(400, 412, 416))
    async def openapi(self, request: web.Request) -> web.Response:
        """Read this API's OpenAPI document; conditional and range requests are supported."""
        if not self._document:  # built once: it takes longer than most requests
            document = openapi.document(self._operations(), anonymous=self._open_to_all)
            self._document = msgspec.json.encode(document) + b"\n"
            self._tag = hashlib.blake2b(self._document, digest_size=16).hexdigest()
        return conditional.respond(request, self._document, self._tag, _JSON)

    @operation("GET", "/docs", answers=(Answer("A page", media=("text/html",)),), errors=(400,))
    async def docs(self, request: web.Request) -> web.Response:
        """Browse this API; the page loads all its files from this server."""
        return html.response(_PAGE.substitute(notice=self._notice))


async def static(request: web.Request) -> web.Response:
    """Send a static file, by its name in the list of files, so that no path leads outside.

    Unlike aiohttp's FileResponse this writes to the connection's buffer, so that slow readers are detected.
    """
    file = _STATIC.get(request.match_info["path"])
    if file is None:
        raise web.HTTPNotFound
    status = await asyncio.to_thread(file.stat)
    media = mimetypes.guess_type(file.name)[0] or _UNKNOWN_TYPE
    return conditional.respond(
        request,
        await asyncio.to_thread(file.read_bytes),
        f"{sidecar.__version__}-{status.st_size:x}-{status.st_mtime_ns:x}",
        {**_VENDORED, "Content-Type": f"{media}; charset=utf-8" if media.startswith("text/") else media},
    )
