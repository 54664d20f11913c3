"""Select the media type of a response by Accept, and its coding by Accept-Encoding (RFC 9110, section 12.5)."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from aiohttp import hdrs, web

from sidecar.domain.errors import NotAcceptable

MEDIA_TYPE = web.RequestKey("media_type", str)
"""Media type of the response, one of those that the operation offers."""
NDJSON = "application/x-ndjson"

_PROBLEM = "application/problem+json"
_OF_ERRORS = (_PROBLEM, "application/json", "text/html")
_MAX_RANGES = 64  # media ranges that are read; a browser sends about ten
_MAX_CACHED = 512  # characters of a header; the result of a longer one is not cached
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's word for it
_RANGE = re.compile(rf"\s*({_TOKEN})/({_TOKEN})\s*(.*)", re.DOTALL)
_QUALITY = re.compile(r"(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class _Range(NamedTuple):
    """A media range of the header; ``*`` matches any."""

    type: str
    subtype: str
    quality: float

    def specificity(self, type_: str, subtype: str) -> int:
        """Return how specifically the range matches a media type; 0: not at all."""
        if (self.type, self.subtype) == (type_, subtype):
            return 3
        if self.subtype != "*" or self.type not in (type_, "*"):
            return 0
        return 1 if self.type == "*" else 2


def best(accept: str | None, offered: Sequence[str]) -> str | None:
    """Return the preferred media type; None if none is acceptable.

    Among types of the same quality the one with the most specific range comes first, then the one that is listed first,
    then the one that is offered first. A header that is absent, or has no valid range, accepts everything.

    Args:
        accept: the header, its lines joined by commas.
        offered: media types without parameters, in lower case; the default first.
    """
    if not accept or accept == "*/*":
        return offered[0]
    return (_best_cached if len(accept) <= _MAX_CACHED else _best)(accept, tuple(offered))


def _best(accept: str, offered: tuple[str, ...]) -> str | None:
    ranges = _read(accept)
    if not ranges:
        return offered[0]
    ranked = []
    for index, media in enumerate(offered):
        matches = [
            (specificity, -number, each.quality)
            for number, each in enumerate(ranges)
            if (specificity := each.specificity(*media.split("/")))
        ]
        if matches:
            specificity, number, quality = max(matches)
            ranked.append((quality, specificity, number, -index, media))
    found = max(ranked, default=(0.0, 0, 0, 0, ""))
    return found[-1] if found[0] else None


_best_cached = functools.lru_cache(maxsize=256)(_best)


def _read(accept: str) -> list[_Range]:
    ranges = []
    for text in accept.split(",", _MAX_RANGES)[:_MAX_RANGES]:
        match = _RANGE.fullmatch(text)
        if match is None or (match[1] == "*" and match[2] != "*"):
            continue
        quality = _quality(match[3])
        if quality is not None:
            ranges.append(_Range(match[1].lower(), match[2].lower(), quality))
    return ranges


def _quality(parameters: str) -> float | None:
    """Return the quality of a range; None if it is malformed. Other parameters are ignored."""
    for parameter in parameters.split(";"):
        name, equals, value = parameter.partition("=")
        if equals and name.strip().lower() == "q":
            return float(value) if _QUALITY.fullmatch(value := value.strip()) else None
    return 1.0


def accept(request: web.BaseRequest) -> str | None:
    """Return the Accept header of a request; None if it is absent."""
    lines = request.headers.getall(hdrs.ACCEPT, ())
    return lines[0] if len(lines) == 1 else ",".join(lines) or None


def choose(request: web.Request, offered: Sequence[str]) -> None:
    """Set :data:`MEDIA_TYPE` to the media type that the caller prefers.

    Raises:
        NotAcceptable: none is acceptable.
    """
    header = accept(request)
    found = best(header, offered)
    if found is None and header and _only_errors(header, offered[0]):
        found = offered[0]  # generated clients list only the type of errors where a response is not JSON
    if found is None:
        raise NotAcceptable(f"Accept: the response is available only as {' or '.join(offered)}.")
    request[MEDIA_TYPE] = found


def _only_errors(accept: str, default: str) -> bool:
    """Whether a header lists the type of errors, and no range that matches the default, not even to refuse it."""
    ranges = _read(accept)
    named = any(each.quality and f"{each.type}/{each.subtype}" == _PROBLEM for each in ranges)
    return named and not any(each.specificity(*default.split("/")) for each in ranges)


def accepts_gzip(request: web.BaseRequest) -> bool:
    """Whether to send a compressed response: gzip is acceptable, and not less than an uncompressed one."""
    lines = request.headers.getall(hdrs.ACCEPT_ENCODING, ())
    header = lines[0] if len(lines) == 1 else ",".join(lines)
    return bool(header) and (_gzip_cached if len(header) <= _MAX_CACHED else _gzip)(header)


def _gzip(header: str) -> bool:
    qualities: dict[str, float] = {}
    for text in header.lower().split(",", _MAX_RANGES)[:_MAX_RANGES]:
        coding, _, parameters = text.partition(";")
        quality = _quality(parameters)
        if quality is not None:
            qualities.setdefault("gzip" if coding.strip() == "x-gzip" else coding.strip(), quality)
    wanted = qualities.get("gzip", qualities.get("*", 0.0))
    return wanted > 0 and wanted >= qualities.get("identity", 0.0)


_gzip_cached = functools.lru_cache(maxsize=256)(_gzip)


def prefers_html(request: web.Request) -> bool:
    """Whether to render an error as a page: browsers prefer HTML, programs JSON or anything."""
    header = accept(request)
    return header is not None and best(header, _OF_ERRORS) == "text/html"


def takes_html(request: web.Request) -> bool:
    """Whether a page is acceptable: to browsers, and to the many programs that accept anything."""
    return best(accept(request), ("text/html", *_OF_ERRORS[:2])) == "text/html"
