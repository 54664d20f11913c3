"""Conditional and range requests (RFC 9110, sections 13 and 14) for complete, unchanging content.

That is the files of pages and the OpenAPI document. Lists, jobs and output change all the time; clients resume there by
a cursor, a position or a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiohttp import hdrs, web

from sidecar.domain.errors import PreconditionFailed, RangeNotSatisfiable

_TAG = re.compile(r'(W/)?"([^"]*)"')


def respond(request: web.Request, body: bytes, tag: str, headers: Mapping[str, str]) -> web.Response:
    """Return a response with the body, a part of it, or 304 if the client has it.

    Args:
        request: the request.
        body: the complete body.
        tag: entity tag of this version of the body, without quotes.
        headers: of the response, Content-Type included.

    Raises:
        PreconditionFailed: the client asks for another version.
        RangeNotSatisfiable: the range is outside of the body.
    """
    headers = {**headers, hdrs.ETAG: f'"{tag}"', hdrs.ACCEPT_RANGES: "bytes"}
    if (expected := _joined(request, hdrs.IF_MATCH)) is not None and not _matches(expected, tag, weak=False):
        raise PreconditionFailed(f'If-Match: this version is "{tag}".')
    if (known := _joined(request, hdrs.IF_NONE_MATCH)) is not None and _matches(known, tag, weak=True):
        return web.Response(status=304, headers=headers)
    part = _range(request, tag)
    if part is None:
        return web.Response(body=body, headers=headers)
    start, stop, _ = part.indices(len(body))
    if start >= stop:
        raise RangeNotSatisfiable(
            f"Range: there are {len(body)} bytes.", headers={hdrs.CONTENT_RANGE: f"bytes */{len(body)}"}
        )
    headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{stop - 1}/{len(body)}"
    return web.Response(body=body[start:stop], status=206, headers=headers)


def _joined(request: web.Request, name: str) -> str | None:
    """Return a list header, its lines joined by commas (RFC 9110, section 5.3); None if it is absent."""
    lines = request.headers.getall(name, None)
    return None if lines is None else ",".join(lines)


def _matches(header: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags includes this one, or is ``*``; ``weak``: compare weakly."""
    return header.strip() == "*" or any(match[2] == tag and (weak or not match[1]) for match in _TAG.finditer(header))


def _range(request: web.Request, tag: str) -> slice | None:
    """Return the requested part; None for the complete body, also if several parts or another version are requested."""
    if request.method != hdrs.METH_GET or hdrs.RANGE not in request.headers:
        return None
    if request.headers.get(hdrs.IF_RANGE, f'"{tag}"') != f'"{tag}"':
        return None
    try:
        return request.http_range
    except ValueError:
        return None
