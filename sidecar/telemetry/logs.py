"""Configure the log: the format of its lines, and the request that each line belongs to.

Every line that is written for a request has the request's ID and trace (W3C ``traceparent``), also if another task
writes it. Input of clients never starts a line of its own, and secrets are not logged: of a URL only the path is, as it
was sent.
"""

from __future__ import annotations

import json
import logging
import re
import reprlib
import sys
import threading
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import structlog
from aiohttp.http_exceptions import HttpProcessingError

from sidecar.config.telemetry import TelemetryOptions
from sidecar.domain.untrusted import excerpt
from sidecar.runtime.log_writer import STDERR, LogWriter
from sidecar.runtime.rate_limiter import client_key
from sidecar.telemetry.log_budget import ALL, JOBS, REFUSED, REFUSED_CLIENT, REPEATED, LogBudget, Rate

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

BUDGET = LogBudget()
"""The limits for all lines of this process."""

_DROPPED = "log lines were dropped: there were too many, or they could not be written"
_KINDS = frozenset({"request", "audit", "job"})
_HIDDEN = re.compile(r"[^ -~]")
REFUSED_STATUS = frozenset({401, 403, 421, 429})
"""Statuses of refused requests: their lines have limits of their own."""
_PROBLEM_LEVELS = frozenset({"warning", "error", "critical", "exception"})
_EVENT = 100  # characters of an event that identify a repeated warning
_LONGEST_TEXT = 1000  # characters of a value
_LONGEST_TRACEBACK = 8000

Fields = MutableMapping[str, Any]


class Origin(NamedTuple):
    """The request that a line belongs to."""

    request_id: str
    trace_id: str = ""
    span_id: str = ""
    unauthenticated: str = ""
    """Address of the client until the request is admitted; empty afterwards."""


ORIGIN: ContextVar[Origin | None] = ContextVar("origin", default=None)
"""The request that the current task works on."""


def origin(request_id: str, traceparent: str | None, address: str = "") -> Origin:
    """Return the origin of a request; a malformed ``traceparent`` is ignored, as its specification demands.

    Args:
        request_id: of the request.
        traceparent: its header.
        address: of the client, until the request is admitted.
    """
    if traceparent and (match := _TRACEPARENT.fullmatch(traceparent.strip())):
        version, trace, span, _, more = match.groups()
        supported = version != "ff" and not (version == "00" and more)
        if supported and trace.strip("0") and span.strip("0"):
            return Origin(request_id, trace, span, address)
    return Origin(request_id, unauthenticated=address)


def configure(options: TelemetryOptions) -> None:
    """Configure the format and level of lines; those of libraries use the same format."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _limit,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _shorten,
            _add_origin,
            *_renderers(options.log_format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, options.log_level.upper())),
        logger_factory=_named_logger,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_LibraryHandler()], force=True)


def take_over() -> None:
    """Log what Python writes to standard error by itself, within the limits.

    These are warnings that ``-W`` or ``PYTHONWARNINGS`` enable, and errors that no code can catch: of finalizers and of
    threads. An error that ends the process is written as usual.
    """
    logging.captureWarnings(True)
    sys.unraisablehook = lambda args: _log_uncaught("an error could not be raised", args.exc_value, args.exc_type)
    threading.excepthook = lambda args: _log_uncaught("a thread has died", args.exc_value, args.exc_type)


def _log_uncaught(event: str, error: BaseException | None, kind: type[BaseException]) -> None:
    structlog.get_logger("server").error(event, error=kind.__name__, exc_info=error or False)


def _named_logger(*names: str) -> LogWriter:
    return STDERR


# ----------------------------------------------------------------------------------------------------- rendering


def _renderers(log_format: str) -> list[Any]:
    if log_format == "json":
        return [structlog.processors.JSONRenderer(serializer=_json)]
    return [_drop_empty, _on_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)]


def line(level: str, event: str, **fields: Any) -> str:
    """Return a line as JSON, before the log is configured."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return _json({**fields, "event": event, "level": level, "timestamp": now})


def _json(fields: Fields, **_: Any) -> str:
    try:
        text = msgspec.json.encode(fields, enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):  # a lone surrogate, a key that is no text, depth
        text = json.dumps({n: v if isinstance(v, str | int | None) else reprlib.repr(v) for n, v in fields.items()})
    return text if text.isprintable() else _HIDDEN.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    r"""Return a character that moves a terminal's cursor, or reorders text, as ``\u`` escape."""
    return json.dumps(match[0])[1:-1] if not match[0].isprintable() else match[0]


def _add_origin(_: Any, __: str, fields: Fields) -> Fields:
    if (request := ORIGIN.get()) and request.request_id:
        fields.setdefault("request_id", request.request_id)
        if request.trace_id:
            fields["trace_id"], fields["span_id"] = request.trace_id, request.span_id
    return fields


def _drop_empty(_: Any, __: str, fields: Fields) -> Fields:
    """Drop empty fields from lines for people, such as ``caller=``."""
    return {name: value for name, value in fields.items() if value != "" or name == "event"}


def _on_one_line(_: Any, __: str, fields: Fields) -> Fields:
    """Escape text that would start a new line or move a terminal's cursor; indent a traceback."""
    for name, value in fields.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if name == "exception" else ()
            fields[name] = "\n".join(f"  | {_printable(line)}" for line in lines) if lines else repr(value)
    return fields


def _printable(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


def _shorten(_: Any, __: str, fields: Fields) -> Fields:
    """Shorten long values: clients choose paths and names."""
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > _LONGEST_TEXT:
            fields[name] = excerpt(value, _LONGEST_TRACEBACK if name == "exception" else _LONGEST_TEXT)
        elif isinstance(value, dict):
            fields[name] = {
                key: excerpt(part, _LONGEST_TEXT) if isinstance(part, str) else part for key, part in value.items()
            }
    return fields


# -------------------------------------------------------------------------------------------------------- limits


def _limit(_: Any, name: str, fields: Fields) -> Fields:
    """Drop a line that exceeds the limits; report the number of dropped lines from time to time.

    Raises:
        structlog.DropEvent: the line exceeds a limit.
    """
    event = str(fields.get("event"))
    if event == _DROPPED or (event == "audit" and fields.get("outcome") == "done"):
        return fields
    report_dropped()
    limits: tuple[tuple[Rate, str], ...] = ((JOBS if event == "job" else ALL, ""),)
    request = ORIGIN.get()
    client = request.unauthenticated if request else ""
    if client or fields.get("status") in REFUSED_STATUS:
        bucket = client_key(client or str(fields.get("address", "")))
        limits = (REFUSED_CLIENT, bucket), (REFUSED, ""), *limits
    if name in _PROBLEM_LEVELS:
        limits = (REPEATED, str(fields.get("logger", event))[:_EVENT]), *limits
    if not BUDGET.acquire(event if event in _KINDS else "other", *limits):
        raise structlog.DropEvent
    return fields


def report_dropped(*, now: bool = False) -> None:
    """Log the number of dropped lines if the report is due.

    Args:
        now: the report is due now, for instance at the end of the process.
    """
    if lost := STDERR.lost:
        BUDGET.count_dropped("unwritten", lost)
    if dropped := BUDGET.take_dropped(now=now):
        structlog.get_logger("log").warning(_DROPPED, **dropped)


# ----------------------------------------------------------------------------------------------------- libraries


class _LibraryHandler(logging.Handler):
    """Write the records of libraries as lines of structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # The text of aiohttp contains the line that it could not read, which may have a token.
            log.debug("a request could not be read", error=type(error).__name__)
        else:
            log.log(record.levelno, _message(record), logger=record.name, exc_info=record.exc_info or False)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit the format: a wrong log call of a library must not raise
        return str(record.msg)
