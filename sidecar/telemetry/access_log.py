"""Write the log line of each request.

It is the line that structlog would write, made in one step and written together with others: through structlog's
processors a line costs as much as a small read. Lines with anything unusual in them (another level, text that has to be
escaped or shortened, a refusal with a limit of its own) do go through structlog.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import sys
import time
from typing import NamedTuple

import msgspec
import structlog

from sidecar.config.telemetry import TelemetryOptions
from sidecar.runtime.log_writer import STDERR
from sidecar.telemetry.log_budget import ALL
from sidecar.telemetry.log_rendering import timestamp
from sidecar.telemetry.logs import BUDGET, ORIGIN, REFUSED_STATUS, report_dropped

log = structlog.get_logger("access")

_INTERVAL = 0.2  # seconds that a line may wait in the buffer
_PLAIN = re.compile(r"[!#-&(-<>-\[\]-~]{0,1000}")  # neither space nor quotes, = and backslash: the same in each format


class RequestLine(NamedTuple):
    """The fields of a line."""

    method: str
    route: str
    path: str
    """As the client has sent it."""
    status: int
    seconds: float
    bytes: int
    caller: str
    address: str


class AccessLog:
    """Write lines of requests, on the event loop.

    Args:
        options: level and format of the log.
    """

    def __init__(self, options: TelemetryOptions) -> None:
        self.enabled = options.log_requests
        """Whether requests are logged."""
        shown = options.log_level in ("debug", "info")
        self._format = _as_json if options.log_format == "json" else _as_text
        self._fast = shown and (options.log_format == "json" or not sys.stderr.isatty())  # people see colors

    def write(self, line: RequestLine) -> None:
        """Write the line of a request, within the limits of the log."""
        origin = ORIGIN.get()
        if not self._fast or origin is None or origin.unauthenticated or not _is_usual(line):
            log.log(logging.ERROR if _has_failed(line) else logging.INFO, "request", **line._asdict())
            return
        if not BUDGET.acquire("request", (ALL, "")):
            return
        trace = (origin.trace_id, origin.span_id) if origin.trace_id else None
        if STDERR.buffer(self._format(line, timestamp(time.time()), origin.request_id, trace)):
            asyncio.get_running_loop().call_later(_INTERVAL, _flush)


def _has_failed(line: RequestLine) -> bool:
    return line.status >= 500 and line.status != 503


def _is_usual(line: RequestLine) -> bool:
    """Whether a line has the level and the limit of most lines, and text that is the same in each format."""
    if _has_failed(line) or line.status in REFUSED_STATUS:
        return False
    return _PLAIN.fullmatch(line.path) is not None and _is_plain(line.caller) and _is_plain(line.address)


@functools.lru_cache(maxsize=256)  # of few callers and addresses there are many lines
def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None


def _flush() -> None:
    STDERR.write_buffer()
    report_dropped()


def _as_text(line: RequestLine, now: str, request_id: str, trace: tuple[str, str] | None) -> str:
    caller = f" caller={line.caller}" if line.caller else ""
    traced = f" trace_id={trace[0]} span_id={trace[1]}" if trace else ""
    return (
        f"{now} [info     ] request                        method={line.method} route={line.route} path={line.path} "
        f"status={line.status} seconds={line.seconds} bytes={line.bytes}{caller} address={line.address} "
        f"request_id={request_id}{traced}"
    )


def _as_json(line: RequestLine, now: str, request_id: str, trace: tuple[str, str] | None) -> str:
    traced = f',"trace_id":"{trace[0]}","span_id":"{trace[1]}"' if trace else ""
    return (
        f'{{"method":"{line.method}","route":"{line.route}","path":"{line.path}","status":{line.status},'
        f'"seconds":{msgspec.json.encode(line.seconds).decode()},"bytes":{line.bytes},"caller":"{line.caller}",'
        f'"address":"{line.address}","event":"request","level":"info","timestamp":"{now}","request_id":"{request_id}"{traced}}}'
    )
