"""Conditional and range requests (RFC 9110, sections 13 and 14).

The files of pages and the OpenAPI document have strong entity tags and parts. Jobs and pages of lists have weak tags:
the same answer may be compressed or not. A client that polls sends the tag of its last answer, and receives 304 until
something has changed. Nothing that changes without a write to the store has a tag, such as a running job with its
runtime so far.
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Mapping

from aiohttp import hdrs, web

from sidecar.domain.errors import PreconditionFailed, RangeNotSatisfiable
from sidecar.http.operations import Answer

NOT_MODIFIED = Answer("Unchanged since the response with one of the tags in If-None-Match", media=(), status=304)
"""The answer to a conditional request whose client has the present version."""
REQUEST_HEADERS = {
    "If-None-Match": "the ETag of an earlier response: the answer is 304, without a body, if nothing has changed"
}
"""The headers of conditional requests, for an operation's description."""

_TAG = re.compile(r'(W/)?"([^"]*)"')
_MASK = 2**64 - 1
_PROCESS = secrets.token_hex(4)  # revisions and hashes of another process mean nothing in this one


def weak_tag(version: int, of: str = "") -> str:
    """Return the weak entity tag of an answer.

    Args:
        version: of the content: the revision of the store, or a hash.
        of: what distinguishes the answer from others of that version.
    """
    return f'W/"{_PROCESS}-{version & _MASK:x}-{zlib.crc32(of.encode()):x}"'


def not_modified(request: web.Request, tag: str) -> web.Response | None:
    """Return the response 304 if the client has the version with this tag, else None."""
    known = _joined(request, hdrs.IF_NONE_MATCH)
    if known is None or not _matches(known, tag[3:-1], weak=True):
        return None
    return web.Response(status=304, headers={hdrs.ETAG: tag})


def is_conditional(request: web.Request) -> bool:
    """Whether a request may be answered with 304."""
    return hdrs.IF_NONE_MATCH in request.headers


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
