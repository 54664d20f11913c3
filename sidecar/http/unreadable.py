"""What is no HTTP/1.1, or is more than is read of it: the parser's errors as problems that say what to change.

The parser quotes what was sent, which may hold a token. So of its errors only the reasons are shown, which are fixed
texts; ``tests/unit/test_dependencies.py`` holds the ones that are told apart here.
"""

from __future__ import annotations

import re

from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.http_exceptions import BadHttpMethod, InvalidURLError, LineTooLong

from sidecar.domain.errors import HeadTooLarge, InvalidRequest, NotImplementedHere, Problem, VersionNotSupported

LINE = 64 * 1024
"""Bytes that a request line, or a header, may have: as much as flux-restful-api takes in all."""
HEAD = LINE + 16 * 1024
"""Bytes that the head of a request may have."""
HEADERS = 256
"""How many headers a request may have."""

_HTTPS = "HTTPS traffic"
_REASON = re.compile(r"(?:Bad status line:\s+)?([A-Z][A-Za-z' `/,-]{3,80}):\n.*", re.DOTALL)
_HEADER = re.compile(r"(Missing|Duplicate) '([A-Za-z-]{1,20})' header")
_METHOD = re.compile(r"b[\"'][A-Za-z!#$%&*+.^_|~-]{1,20} /")
_MANY = "Too many headers"


class BodyUnreadable(web.RequestPayloadError):
    """The parser has failed in a body, or behind it in its trailers.

    Args:
        exc: its error.
    """

    def __init__(self, exc: BaseException | None) -> None:
        super().__init__()
        found = problem_of(exc)
        self.problem = found if isinstance(found, HeadTooLarge) else broken()


def broken() -> InvalidRequest:
    """Return the error of a body whose chunks cannot be told."""
    return InvalidRequest("The body cannot be read: its transfer encoding is broken.")


def body_problem(exc: web.RequestPayloadError) -> Problem:
    """Return the problem for a body that cannot be read."""
    return exc.problem if isinstance(exc, BodyUnreadable) else broken()


def problem_of(exc: BaseException | None) -> Problem:
    """Return the problem for an error of the parser."""
    text = getattr(exc, "message", "")
    if isinstance(exc, LineTooLong):
        return HeadTooLarge(f"The request line, or a header, is longer than {LINE} bytes.")
    if isinstance(exc, BadHttpMethod):
        if _HTTPS in text:
            return InvalidRequest("This port speaks plain HTTP, and the client speaks HTTPS: use http://.")
        if _METHOD.search(text):
            return NotImplementedHere("The method is not known here; methods are GET, POST, ..., in capitals.")
    if isinstance(exc, InvalidURLError) and "\\x" in text:
        return InvalidRequest(
            "The address holds characters that are not ASCII: percent-encode them as UTF-8. (ƒ is %C6%92; in a job's "
            "ID f stands for it too.)"
        )
    if text.startswith(_MANY):
        return HeadTooLarge(f"The request has more than {HEADERS} headers.")
    if header := _HEADER.match(text):
        what = "missing" if header[1] == "Missing" else "there twice; send it once"
        return InvalidRequest(f"The request is not HTTP/1.1: the header {header[2]} is {what}.")
    reason = _REASON.fullmatch(text)
    if reason is None:
        return InvalidRequest("The request is not HTTP/1.1.")
    if reason[1] in ("Invalid HTTP version", "Pause on PRI/Upgrade"):  # the second is HTTP/2 without asking
        return VersionNotSupported(_VERSIONS)
    return InvalidRequest(f"The request is not HTTP/1.1: {reason[1]}.")


def check_version(version: HttpVersion) -> None:
    """Let a request through that is of HTTP/1.1 or HTTP/1.0.

    Raises:
        VersionNotSupported: it is of another version, which the parser lets through.
    """
    if version not in (HttpVersion11, HttpVersion10):
        raise VersionNotSupported(_VERSIONS)


_VERSIONS = "Only HTTP/1.1 and HTTP/1.0 are spoken here."
