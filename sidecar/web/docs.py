"""What describes the API, for machines and for people, and the vendored files that its page needs."""

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
_JSON = {"Content-Type": "application/json", "Cache-Control": "private, no-cache"}  # kept, and asked for each time
_OTHER = "application/octet-stream"


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
        self._document, self._tag = b"", ""

    @operation("GET", "/openapi.json", answers=(Answer("OpenAPI 3.1", dict[str, Any]),), errors=(400, 412, 416))
    async def openapi(self, request: web.Request) -> web.Response:
        """Read this API's OpenAPI document; conditional and range requests are answered."""
        if not self._document:  # it never changes, and to make it takes longer than most requests
            document = openapi.document(self._operations(), open_to_all=self._open_to_all)
            self._document = msgspec.json.encode(document) + b"\n"
            self._tag = hashlib.blake2b(self._document, digest_size=16).hexdigest()
        return conditional.answer(request, self._document, self._tag, _JSON)

    @operation("GET", "/docs", answers=(Answer("A page", media=("text/html",)),), errors=(400,))
    async def docs(self, request: web.Request) -> web.Response:
        """Browse this API; everything that the page needs comes from this server."""
        return html.response(_PAGE.substitute(notice=self._notice))


async def static(request: web.Request) -> web.Response:
    """Send a vendored file. Only names that are there can be asked for, so no path leads elsewhere.

    Unlike aiohttp's FileResponse this goes through the connection's own buffer: a reader that takes nothing is seen.
    """
    file = _STATIC.get(request.match_info["path"])
    if file is None:
        raise web.HTTPNotFound
    found = await asyncio.to_thread(file.stat)
    kind = mimetypes.guess_type(file.name)[0] or _OTHER
    return conditional.answer(
        request,
        await asyncio.to_thread(file.read_bytes),
        f"{sidecar.__version__}-{found.st_size:x}-{found.st_mtime_ns:x}",
        {**_VENDORED, "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind},
    )
