"""How a line of the log is written, and which request it belongs to.

Every line that is written while a request is worked on carries its id, and the trace that the caller is in (W3C
``traceparent``), also in what the request has begun and others carry out. What callers send never makes a line of its
own, and never a secret: of an address the path alone is written, as it was sent.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from sidecar.settings import Settings

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

Fields = MutableMapping[str, Any]


class Origin(NamedTuple):
    """What a line of the log comes from."""

    request_id: str
    trace_id: str = ""
    span_id: str = ""


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""Of whatever is done now."""


def origin(request_id: str, traceparent: str | None) -> Origin:
    """Return the origin of a request; a ``traceparent`` that is none begins no trace, as its specification says."""
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent.strip())):
        version, trace, span, _, more = match.groups()
        known = version != "ff" and not (version == "00" and more)
        if known and trace.strip("0") and span.strip("0"):
            return Origin(request_id, trace, span)
    return Origin(request_id)


def configure(settings: Settings) -> None:
    """Write lines as the settings say, and those of libraries as our own."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _add_origin,
            *_renderers(settings.log_format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, settings.log_level.upper())),
        logger_factory=_named_logger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_Others()], force=True)


def _renderers(form: str) -> list[Any]:
    if form == "json":
        return [structlog.processors.JSONRenderer(serializer=_json)]
    return [_on_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)]


def _json(fields: Fields, **_: Any) -> str:
    return msgspec.json.encode(fields, enc_hook=repr).decode()


def _add_origin(_: Any, __: str, fields: Fields) -> Fields:
    if found := ORIGIN.get():
        fields.setdefault("request_id", found.request_id)
        if found.trace_id:
            fields["trace_id"], fields["span_id"] = found.trace_id, found.span_id
    return fields


def _on_one_line(_: Any, __: str, fields: Fields) -> Fields:
    """Show what would begin a new line, or move a terminal's cursor, as Python would; a traceback is ours."""
    for name, value in fields.items():
        if isinstance(value, str) and name != "exception" and not value.isprintable():
            fields[name] = repr(value)
    return fields


def _named_logger(*names: str) -> structlog.PrintLogger:
    return structlog.PrintLogger(sys.stderr)


class _Others(logging.Handler):
    """What libraries log, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # aiohttp would show the line that it could not read, and with it the token that stands there.
            log.debug("a request could not be read", error=type(error).__name__)
        else:
            log.log(record.levelno, record.getMessage(), exc_info=record.exc_info or False)
