"""Configure the log: the format of its lines, and the request that each line belongs to.

Every line that is written for a request has the request's ID and trace (W3C ``traceparent``), also if another task
writes it. Input of clients never starts a line of its own, and secrets are not logged: of a URL only the path is, as it
was sent.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, NamedTuple

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from sidecar.config.telemetry import TelemetryOptions
from sidecar.runtime.log_writer import STDERR, LogWriter
from sidecar.runtime.rate_limiter import client_key
from sidecar.telemetry.log_budget import ALL, JOBS, REFUSED, REFUSED_CLIENT, REPEATED, LogBudget, Rate
from sidecar.telemetry.log_rendering import Fields, add_timestamp, as_json, renderers, shorten

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

BUDGET = LogBudget()
"""The limits for all lines of this process."""

_DROPPED = "log lines were dropped: there were too many, or they could not be written"
_KINDS = frozenset({"request", "audit", "job"})
REFUSED_STATUS = frozenset({401, 403, 421, 429})
"""Statuses of refused requests: their lines have limits of their own."""
_PROBLEM_LEVELS = frozenset({"warning", "error", "critical", "exception"})
_EVENT = 100  # characters of an event that identify a repeated warning


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
            add_timestamp,
            structlog.processors.format_exc_info,
            shorten,
            _add_origin,
            *renderers(options.log_format),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, options.log_level.upper())),
        logger_factory=_named_logger,
        cache_logger_on_first_use=True,
    )
    STDERR.defer = _defer
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


def line(level: str, event: str, **fields: Any) -> str:
    """Return a line as JSON, before the log is configured."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return as_json({**fields, "event": event, "level": level, "timestamp": now})


def _add_origin(_: Any, __: str, fields: Fields) -> Fields:
    if (request := ORIGIN.get()) and request.request_id:
        fields.setdefault("request_id", request.request_id)
        if request.trace_id:
            fields["trace_id"], fields["span_id"] = request.trace_id, request.span_id
    return fields


# ------------------------------------------------------------------------------------------------------- writing

_deferring: asyncio.AbstractEventLoop | None = None


def _defer() -> bool:
    """Write the buffered lines at the end of the event loop's iteration; return False in a thread without a loop."""
    global _deferring
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return False
    if _deferring is not loop:
        _deferring = loop
        loop.call_soon(_write_deferred)
    return True


def _write_deferred() -> None:
    global _deferring
    _deferring = None
    STDERR.write_buffer()


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
