"""Translate the HTTP parser's errors into problems that say what to change.

The parser quotes the request, which may contain a token. Therefore only its fixed texts are shown;
``tests/unit/test_dependencies.py`` covers those that are distinguished here.
"""

from __future__ import annotations

import re

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMethod, InvalidURLError, LineTooLong

from sidecar.domain.errors import HeadTooLarge, InvalidRequest, NotImplementedHere, Problem, VersionNotSupported

MAX_LINE = 64 * 1024
"""Bytes of the request line, or of a header: the limit of flux-restful-api for all of them."""
MAX_HEAD = MAX_LINE + 16 * 1024
"""Bytes of the head of a request."""
MAX_HEADERS = 256
"""Headers of a request."""

_VERSIONS = "Only HTTP/1.1 and HTTP/1.0 are supported."
_HTTPS = "HTTPS traffic"
_REASON = re.compile(r"(?:Bad status line:\s+)?([A-Z][A-Za-z' `/,-]{3,80}):\n.*", re.DOTALL)
_HEADER = re.compile(r"(Missing|Duplicate) '([A-Za-z-]{1,20})' header")
_METHOD = re.compile(r"b[\"'][A-Za-z!#$%&*+.^_|~-]{1,20} /")
_MANY = "Too many headers"


class BodyUnreadable(web.RequestPayloadError):
    """The parser has failed in a body or its trailers.

    Args:
        exc: the parser's error.
    """

    def __init__(self, exc: BaseException | None) -> None:
        super().__init__()
        problem = problem_of(exc)
        self.problem = problem if isinstance(problem, HeadTooLarge) else broken_body()


def broken_body() -> InvalidRequest:
    """Return the error of a body with malformed chunks."""
    return InvalidRequest("The body cannot be read: its transfer encoding is broken.")


def body_problem(exc: web.RequestPayloadError) -> Problem:
    """Return the problem for a body that cannot be read."""
    return exc.problem if isinstance(exc, BodyUnreadable) else broken_body()


def problem_of(exc: BaseException | None) -> Problem:
    """Return the problem for an error of the parser."""
    text = getattr(exc, "message", "")
    if isinstance(exc, LineTooLong):
        return HeadTooLarge(f"The request line, or a header, is longer than {MAX_LINE} bytes.")
    if isinstance(exc, BadHttpMethod):
        if _HTTPS in text:
            return InvalidRequest("This port speaks plain HTTP, and the client speaks HTTPS: use http://.")
        if _METHOD.search(text):
            return NotImplementedHere("Unknown method; use GET, POST, ... in capitals.")
    if isinstance(exc, InvalidURLError) and "\\x" in text:
        return InvalidRequest(
            "The address has characters that are not ASCII: percent-encode them as UTF-8. (ƒ is %C6%92; in a "
            "jobid f stands for it too.)"
        )
    if text.startswith(_MANY):
        return HeadTooLarge(f"The request has more than {MAX_HEADERS} headers.")
    if header := _HEADER.match(text):
        fault = "missing" if header[1] == "Missing" else "given twice; send it once"
        return InvalidRequest(f"The request is not HTTP/1.1: the header {header[2]} is {fault}.")
    reason = _REASON.fullmatch(text)
    if reason is None:
        return InvalidRequest("The request is not HTTP/1.1.")
    if reason[1] in ("Invalid HTTP version", "Pause on PRI/Upgrade"):  # the second is HTTP/2 without negotiation
        return VersionNotSupported(_VERSIONS)
    return InvalidRequest(f"The request is not HTTP/1.1: {reason[1]}.")


def check_version(version: HttpVersion) -> None:
    """Check the version of a request; the parser accepts others than HTTP/1.1 and HTTP/1.0.

    Raises:
        VersionNotSupported: it is another one.
    """
    if version not in (HttpVersion11, HttpVersion10):
        raise VersionNotSupported(_VERSIONS)
