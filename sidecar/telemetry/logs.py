"""How a line of the log is written, and which request it belongs to.

Every line that is written while a request is worked on carries its id, and the trace that the caller is in (W3C
``traceparent``), also in what the request has begun and others carry out. What callers send never makes a line of its
own, and never a secret: of an address the path alone is written, as it was sent.
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
from sidecar.telemetry.log_budget import ALL, JOBS, SAME, STRANGER, STRANGERS, LogBudget, Rate

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

BUDGET = LogBudget()
"""Of all lines of this process."""

_LEFT_OUT = "lines of the log were left out: there were too many, or they could not be written"
_KINDS = frozenset({"request", "audit", "job"})
_HIDDEN = re.compile(r"[^ -~]")
_REFUSED = frozenset({401, 403, 421, 429})
_WORSE = frozenset({"warning", "error", "critical", "exception"})
_EVENT = 100  # characters by which one warning is told from another
_TEXT = 1000  # characters of a value
_EXCEPTION = 8000

Fields = MutableMapping[str, Any]


class Origin(NamedTuple):
    """What a line of the log comes from."""

    request_id: str
    trace_id: str = ""
    span_id: str = ""
    stranger: str = ""
    """Address of a request that is not let in yet; empty when it is."""


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


def configure(options: TelemetryOptions) -> None:
    """Write lines as the options say, and those of libraries as our own."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _spend,
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
    logging.basicConfig(level=logging.WARNING, handlers=[_Others()], force=True)


def take_over() -> None:
    """Write what Python itself writes to standard error as lines of ours, each within the budget.

    These are warnings that ``-W`` or ``PYTHONWARNINGS`` ask for, and errors that nothing can catch: of finalizers, and
    of threads. An error that ends the process is written as ever.
    """
    logging.captureWarnings(True)
    sys.unraisablehook = lambda found: _log_uncaught("an error could not be raised", found.exc_value, found.exc_type)
    threading.excepthook = lambda found: _log_uncaught("a thread has died", found.exc_value, found.exc_type)


def _log_uncaught(event: str, error: BaseException | None, kind: type[BaseException]) -> None:
    structlog.get_logger("server").error(event, error=kind.__name__, exc_info=error or False)


def _renderers(form: str) -> list[Any]:
    if form == "json":
        return [structlog.processors.JSONRenderer(serializer=_json)]
    return [_without_empty, _on_one_line, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), sort_keys=False)]


def _json(fields: Fields, **_: Any) -> str:
    try:
        text = msgspec.json.encode(fields, enc_hook=repr).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):  # a lone surrogate, a key that is no text, depth
        text = json.dumps({n: v if isinstance(v, str | int | None) else reprlib.repr(v) for n, v in fields.items()})
    return text if text.isprintable() else _HIDDEN.sub(_escaped, text)


def line(level: str, event: str, **fields: Any) -> str:
    """Return a line as JSON, where nothing is configured yet."""
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return _json({**fields, "event": event, "level": level, "timestamp": now})


def _escaped(match: re.Match[str]) -> str:
    """Write a character that moves a terminal's cursor, or changes the order of others, as JSON may write each."""
    return json.dumps(match[0])[1:-1] if not match[0].isprintable() else match[0]


def _add_origin(_: Any, __: str, fields: Fields) -> Fields:
    if (found := ORIGIN.get()) and found.request_id:
        fields.setdefault("request_id", found.request_id)
        if found.trace_id:
            fields["trace_id"], fields["span_id"] = found.trace_id, found.span_id
    return fields


def _without_empty(_: Any, __: str, fields: Fields) -> Fields:
    """Leave out what is empty: to a person ``caller=`` says nothing."""
    return {name: value for name, value in fields.items() if value != "" or name == "event"}


def _on_one_line(_: Any, __: str, fields: Fields) -> Fields:
    """Show what would begin a new line, or move a terminal's cursor, as Python would; a traceback is indented."""
    for name, value in fields.items():
        if isinstance(value, str) and not value.isprintable():
            lines = value.split("\n") if name == "exception" else ()
            fields[name] = "\n".join(f"  | {_plain(line)}" for line in lines) if lines else repr(value)
    return fields


def _plain(line: str) -> str:
    return line if line.isprintable() else repr(line)[1:-1]


# ------------------------------------------------------------------------------------------------------- budget


def _spend(_: Any, name: str, fields: Fields) -> Fields:
    """Let a line through for which there is room, and say now and then how many there was no room for.

    Raises:
        structlog.DropEvent: there is none.
    """
    event = str(fields.get("event"))
    if event == _LEFT_OUT or (event == "audit" and fields.get("outcome") == "done"):
        return fields
    report_left_out()
    limits: tuple[tuple[Rate, str], ...] = ((JOBS if event == "job" else ALL, ""),)
    found = ORIGIN.get()
    stranger = found.stranger if found else ""
    if stranger or fields.get("status") in _REFUSED:
        limits = (STRANGER, client_key(stranger or str(fields.get("address", "")))), (STRANGERS, ""), *limits
    if name in _WORSE:
        limits = (SAME, str(fields.get("logger", event))[:_EVENT]), *limits
    if not BUDGET.take(event if event in _KINDS else "other", *limits):
        raise structlog.DropEvent
    return fields


def report_left_out(*, now: bool = False) -> None:
    """Write how many lines were left out, when it is time to.

    Args:
        now: it is time, as at the end.
    """
    if lost := STDERR.lost:
        BUDGET.leave_out("unwritten", lost)
    if left_out := BUDGET.due(now=now):
        structlog.get_logger("log").warning(_LEFT_OUT, **left_out)


def _shorten(_: Any, __: str, fields: Fields) -> Fields:
    """Shorten what is long: callers choose paths and names, and a line for each must not make much of them."""
    for name, value in fields.items():
        if isinstance(value, str) and len(value) > _TEXT:
            fields[name] = excerpt(value, _EXCEPTION if name == "exception" else _TEXT)
        elif isinstance(value, dict):
            fields[name] = {key: excerpt(part, _TEXT) if isinstance(part, str) else part for key, part in value.items()}
    return fields


def _named_logger(*names: str) -> LogWriter:
    return STDERR


class _Others(logging.Handler):
    """What libraries log, as lines of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            # aiohttp would show the line that it could not read, and with it the token that stands there.
            log.debug("a request could not be read", error=type(error).__name__)
        else:
            log.log(record.levelno, _message(record), logger=record.name, exc_info=record.exc_info or False)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # its arguments do not fit its text: what a library has logged wrongly must not fail where it is
        return str(record.msg)
