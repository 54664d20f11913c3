"""Content negotiation by Accept (RFC 9110, section 12.5.1): which of the media types on offer a client prefers."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import hdrs, web

from sidecar.domain.errors import NotAcceptable

WANTED = web.RequestKey("wanted", str)
"""The media type of the answer, of those that the operation offers."""
_PROBLEM = "application/problem+json"
_RANGES = 64  # media ranges that are read; a browser sends about ten
_KEPT = 512  # characters of a header whose reading is kept
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for it
_RANGE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*(.*)", re.DOTALL)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class _Range(NamedTuple):
    """A media range of the header; ``*`` stands for any."""

    type: str
    subtype: str
    quality: float

    def specificity(self, type_: str, subtype: str) -> int:
        """Return how closely it matches a media type; 0: not at all."""
        if (self.type, self.subtype) == (type_, subtype):
            return 3
        if self.subtype != "*" or self.type not in (type_, "*"):
            return 0
        return 1 if self.type == "*" else 2


def best(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the media type that is preferred; None where none is acceptable.

    Among those of one quality, the one that is named most closely comes first, then the one that is named first, then
    the one that is offered first. A header that is absent, or holds nothing that can be read, takes everything.

    Args:
        accept: the header, its lines joined by commas.
        offered: media types without parameters, in lower case; the default first.
    """
    if not accept or accept == "*/*":
        return offered[0]
    return (_kept if len(accept) <= _KEPT else _best)(accept, tuple(offered))


def _best(accept: str, offered: tuple[str, ...]) -> str | None:
    ranges = _read(accept)
    if not ranges:
        return offered[0]
    ranked = []
    for place, media in enumerate(offered):
        matches = [
            (specificity, -number, each.quality)
            for number, each in enumerate(ranges)
            if (specificity := each.specificity(*media.split("/")))
        ]
        if matches:
            specificity, number, quality = max(matches)
            ranked.append((quality, specificity, number, -place, media))
    found = max(ranked, default=(0.0, 0, 0, 0, ""))
    return found[-1] if found[0] else None


_kept = functools.lru_cache(maxsize=256)(_best)


def _read(accept: str) -> list[_Range]:
    ranges = []
    for text in accept.split(",", _RANGES)[:_RANGES]:
        match = _RANGE.fullmatch(text)
        if match is None or (match[1] == "*" and match[2] != "*"):
            continue
        quality = _quality(match[3])
        if quality is not None:
            ranges.append(_Range(match[1].lower(), match[2].lower(), quality))
    return ranges


def _quality(parameters: str) -> float | None:
    """Return the quality that parameters give; None where it cannot be read. Other parameters make no difference."""
    for parameter in parameters.split(";"):
        name, equals, value = parameter.partition("=")
        if equals and name.strip().lower() == "q":
            return float(value) if _QUALITY.fullmatch(value := value.strip()) else None
    return 1.0


def accept(request: web.BaseRequest) -> str | None:
    """Return the request's header Accept; None where there is none."""
    lines = request.headers.getall(hdrs.ACCEPT, ())
    return lines[0] if len(lines) == 1 else ",".join(lines) or None


def choose(request: web.Request, offered: Sequence[str]) -> None:
    """Set :data:`WANTED` to the media type that the caller prefers.

    Raises:
        NotAcceptable: none is acceptable.
    """
    header = accept(request)
    found = best(header, offered)
    if found is None and header and _only_errors(header, offered[0]):
        found = offered[0]  # generated clients name the type of errors alone, where an answer is no JSON
    if found is None:
        raise NotAcceptable(f"Accept: there is only {' or '.join(offered)} here.")
    request[WANTED] = found


def _only_errors(accept: str, default: str) -> bool:
    """Whether a header names the type of errors itself, and says nothing of the default, which it may refuse."""
    ranges = _read(accept)
    named = any(each.quality and f"{each.type}/{each.subtype}" == _PROBLEM for each in ranges)
    return named and not any(each.specificity(*default.split("/")) for each in ranges)


def prefers_html(request: web.Request) -> bool:
    """Whether an error is to be shown as a page: a browser asks for one, and a program for JSON or anything."""
    header = accept(request)
    return header is not None and best(header, _OF_ERRORS) == "text/html"


def takes_html(request: web.Request) -> bool:
    """Whether a page may be the answer: a browser asks for one, and many programs take anything."""
    return best(accept(request), ("text/html", *_OF_ERRORS[:2])) == "text/html"


_OF_ERRORS = (_PROBLEM, "application/json", "text/html")


NDJSON = "application/x-ndjson"
