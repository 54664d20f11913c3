"""Conditional and range requests (RFC 9110, sections 13 and 14), for what is whole and does not change while sent.

That is the files that pages need, and the OpenAPI document. Lists, jobs and output change all the time: there a client
goes on by a cursor, a position or a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from aiohttp import hdrs, web

from sidecar.domain.errors import PreconditionFailed, RangeNotSatisfiable

_TAG = re.compile(r'(W/)?"([^"]*)"')


def answer(request: web.Request, body: bytes, tag: str, headers: Mapping[str, str]) -> web.Response:
    """Answer with a body, with a part of it, or that the client has it already.

    Args:
        request: what is answered.
        body: all of it.
        tag: changes when the body does; without quotes.
        headers: with the body's type.

    Raises:
        PreconditionFailed: the client wants another version only.
        RangeNotSatisfiable: there is no such part.
    """
    headers = {**headers, hdrs.ETAG: f'"{tag}"', hdrs.ACCEPT_RANGES: "bytes"}
    if (wanted := _joined(request, hdrs.IF_MATCH)) is not None and not _names(wanted, tag, weak=False):
        raise PreconditionFailed(f'If-Match: this version is "{tag}".')
    if (known := _joined(request, hdrs.IF_NONE_MATCH)) is not None and _names(known, tag, weak=True):
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
    """Return a header that is a list, its lines joined by commas (RFC 9110, section 5.3); None where there is none."""
    lines = request.headers.getall(name, None)
    return None if lines is None else ",".join(lines)


def _names(header: str, tag: str, *, weak: bool) -> bool:
    """Whether a list of entity tags names this one, or stands for any; ``weak``: also as a weak one."""
    return header.strip() == "*" or any(match[2] == tag and (weak or not match[1]) for match in _TAG.finditer(header))


def _range(request: web.Request, tag: str) -> slice | None:
    """Return the part that is asked for; None for all, and where several parts or another version's are."""
    if request.method != hdrs.METH_GET or hdrs.RANGE not in request.headers:
        return None
    if request.headers.get(hdrs.IF_RANGE, f'"{tag}"') != f'"{tag}"':
        return None
    try:
        return request.http_range
    except ValueError:
        return None
