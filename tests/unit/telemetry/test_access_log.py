"""The line of a request is the one that structlog would write, whichever way it takes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from sidecar.config.telemetry import TelemetryOptions
from sidecar.runtime.log_writer import LogWriter
from sidecar.telemetry import access_log, logs
from sidecar.telemetry.access_log import AccessLog, RequestLine
from sidecar.telemetry.log_budget import ALL, LogBudget
from tests.support.harness import PATIENCE

LINE = RequestLine("GET", "/v1/jobs/{uid}", "/v1/jobs/f1?", 200, 0.000123, 12, "alice", "127.0.0.1")
TRACED = logs.Origin("id-1", "a" * 32, "b" * 16)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return the end of a pipe from which the lines of the log are read."""
    reader, writer = os.pipe()
    lines = LogWriter(writer)
    monkeypatch.setattr(access_log, "STDERR", lines)
    monkeypatch.setattr(logs, "STDERR", lines)
    monkeypatch.setattr(logs, "BUDGET", budget := LogBudget(lambda: 0.0))  # no token is added meanwhile
    monkeypatch.setattr(access_log, "BUDGET", budget)
    monkeypatch.setattr(access_log, "log", structlog.get_logger("access"))  # the other one keeps its first writer
    yield reader
    structlog.reset_defaults()
    os.close(reader)
    os.close(writer)


def written(reader: int, lines: int) -> list[str]:
    text = b""
    while text.count(b"\n") < lines:
        readable, _, _ = select.select([reader], [], [], PATIENCE)
        assert readable, f"{lines} lines were not written: {text!r}"
        text += os.read(reader, 1 << 16)
    return text.decode().splitlines()


def without_time(line: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line)


async def both(reader: int, log_format: str, line: RequestLine, origin: logs.Origin) -> tuple[str, str]:
    """Return a line as the access log writes it, and as structlog does."""
    options = TelemetryOptions(log_format="json" if log_format == "json" else "console")
    logs.configure(options)
    logs.ORIGIN.set(origin)
    AccessLog(options).write(line)
    found = await asyncio.to_thread(written, reader, 1)
    structlog.get_logger(f"{log_format}{line}").info("request", **line._asdict())
    return found[0], (await asyncio.to_thread(written, reader, 1))[0]


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("origin", [logs.Origin("id-1"), TRACED], ids=["alone", "traced"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"caller": ""},
        {"status": 404},
        {"status": 503},
        {"seconds": 0.000012},
        {"seconds": 0.0},
        {"path": "/v1/jobs/a%20b"},
        {"path": '/v1/jobs/"'},
        {"path": "/v1/jobs/a b=c"},
        {"path": "/v1/jobs/\\"},
        {"path": "/v1/jobs/\x1b[2J"},
        {"path": "/v1/jobs/ƒ1"},
        {"path": "/" + "x" * 2000},
        {"caller": "Alice O'Neill"},
        {"caller": "b\nob"},
    ],
    ids=lambda change: repr(change)[:30],
)
async def test_both_ways_write_the_same(
    reader: int, log_format: str, origin: logs.Origin, change: dict[str, Any]
) -> None:
    fast, slow = await both(reader, log_format, LINE._replace(**change), origin)
    assert without_time(fast) == without_time(slow)
    if log_format == "json":
        assert json.loads(fast)["path"] == json.loads(slow)["path"]


async def test_plain_lines_do_not_pass_structlog(reader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.configure(TelemetryOptions())
    logs.ORIGIN.set(TRACED)
    monkeypatch.setattr(access_log, "log", None)
    AccessLog(TelemetryOptions()).write(LINE)
    assert "route=/v1/jobs/{uid}" in (await asyncio.to_thread(written, reader, 1))[0]


async def test_lines_are_written_together_and_before_others(reader: int) -> None:
    logs.configure(TelemetryOptions())
    logs.ORIGIN.set(TRACED)
    lines = AccessLog(TelemetryOptions())
    for number in range(100):
        lines.write(LINE._replace(bytes=number))
    structlog.get_logger("order").warning("another line")
    found = written(reader, 101)
    assert [int(re.findall(r"bytes=(\d+)", line)[0]) for line in found[:100]] == list(range(100))
    assert "another line" in found[100]


async def test_lines_over_the_limit_are_dropped_and_counted(reader: int) -> None:
    logs.configure(TelemetryOptions())
    logs.ORIGIN.set(TRACED)
    budget = logs.BUDGET
    while budget.acquire("other", (ALL, "")):
        pass
    before = budget.take_dropped(now=True)["other"]
    AccessLog(TelemetryOptions()).write(LINE)
    assert (before, budget.take_dropped(now=True)) == (1, {"request": 1})


@pytest.mark.parametrize("level", ["warning", "error"])
async def test_no_line_below_the_level(reader: int, level: str) -> None:
    options = TelemetryOptions(log_level="warning" if level == "warning" else "error")
    logs.configure(options)
    logs.ORIGIN.set(TRACED)
    AccessLog(options).write(LINE)
    structlog.get_logger(level).error("end")
    assert "end" in written(reader, 1)[0]
