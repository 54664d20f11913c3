"""Log lines: the quick renderer writes what structlog would, and lines of one iteration are written together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import structlog
from hypothesis import given
from hypothesis import strategies as st

from sidecar.runtime.log_writer import LogWriter
from sidecar.telemetry.log_rendering import PlainRenderer, timestamp

_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dictionaries(st.text(), st.text())
_names = st.sampled_from(["job", "state", "details", "error", "exception", "stack", "logger", "logger_name", "x y"])


@given(
    st.text(min_size=1),
    st.sampled_from(["debug", "info", "warning", "error", "critical"]),
    st.dictionaries(_names, _values),
)
def test_lines_are_those_of_structlog(event: str, level: str, fields: dict[str, Any]) -> None:
    for name in ("exception", "stack"):
        if name in fields:
            fields[name] = str(fields[name])
    full = structlog.dev.ConsoleRenderer(colors=False, sort_keys=False)
    line = {"timestamp": timestamp(0.0), "level": level, "event": event, **fields}
    assert PlainRenderer(full)(None, level, dict(line)) == full(None, level, dict(line))


@given(st.floats(min_value=0, max_value=4e9))
def test_times_are_those_of_structlog(now: float) -> None:
    from datetime import UTC, datetime

    second, text = int(now), timestamp(now)
    assert text.startswith(datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S."))
    assert abs(datetime.fromisoformat(text).timestamp() - now) < 2e-6


async def test_lines_of_one_iteration_are_written_together() -> None:
    reader, writer = os.pipe()
    lines = LogWriter(writer)
    scheduled: list[Callable[[], object]] = []

    def defer() -> bool:
        if not scheduled:
            scheduled.append(lines.write_buffer)
            asyncio.get_running_loop().call_soon(lambda: scheduled.pop()())
        return True

    lines.defer = defer
    lines.info("first")
    lines.info("second")
    os.set_blocking(reader, False)
    lines.warning("third")  # a problem is written at once, after what precedes it
    assert os.read(reader, 100) == b"first\nsecond\nthird\n"
    lines.info("fourth")
    await asyncio.sleep(0)
    assert os.read(reader, 100) == b"fourth\n"
    assert await asyncio.to_thread(_written_by_a_thread, reader, writer) == b"fifth\n"
    os.close(reader)
    os.close(writer)


def _written_by_a_thread(reader: int, writer: int) -> bytes:
    LogWriter(writer).info("fifth")
    return os.read(reader, 100)
