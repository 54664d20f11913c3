"""Limits of log lines, the counts of dropped lines, and the format of lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import structlog

from sidecar.telemetry import log_rendering, logs
from sidecar.telemetry.log_budget import ALL, REFUSED, REFUSED_CLIENT, REPEATED, LogBudget
from sidecar.telemetry.logs import ORIGIN, Origin


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> LogBudget:
    budget = LogBudget(clock)
    monkeypatch.setattr(logs, "BUDGET", budget)
    return budget


def write(number: int, name: str = "info", **fields: Any) -> int:
    """Return how many of a number of lines are written."""
    written = 0
    for _ in range(number):
        try:
            logs._limit(None, name, {"event": "request", **fields})
        except structlog.DropEvent:
            continue
        written += 1
    return written


def test_limit_of_one_address(budget: LogBudget, clock: Clock) -> None:
    assert write(1000, status=401, address="192.0.2.1") == REFUSED_CLIENT.burst
    assert write(10, status=401, address="192.0.2.2") == 10
    clock.now += 2
    assert write(1000, status=401, address="192.0.2.1") == 2 * REFUSED_CLIENT.per_second


def test_limit_of_an_ipv6_network(budget: LogBudget) -> None:
    written = sum(write(1, status=403, address=f"2001:db8::{n:x}") for n in range(1000))
    assert written == REFUSED_CLIENT.burst


def test_limit_of_all_addresses(budget: LogBudget) -> None:
    written = sum(write(1, status=429, address=f"192.0.{n // 250}.{n % 250}") for n in range(2000))
    assert written == REFUSED.burst


def test_lines_of_a_request_that_is_not_admitted_yet(budget: LogBudget) -> None:
    token = ORIGIN.set(Origin("1", unauthenticated="192.0.2.1"))
    try:
        assert write(1000, status=400) == REFUSED_CLIENT.burst
    finally:
        ORIGIN.reset(token)


def test_limit_of_admitted_requests(budget: LogBudget) -> None:
    assert write(2 * int(ALL.burst), status=200) == ALL.burst


@pytest.mark.parametrize("name", ["warning", "error", "exception", "critical"])
def test_limit_of_a_repeated_error(budget: LogBudget, name: str) -> None:
    assert write(1000, name, event="a request failed", error="a") == REPEATED.burst
    assert write(1, name, event="another") == 1


def test_limit_of_a_library(budget: LogBudget) -> None:
    """Each line may have another text: they are counted by their logger."""
    written = sum(write(1, "error", event=f"Exception in callback <Handle {n}>", logger="asyncio") for n in range(1000))
    assert written == REPEATED.burst


def test_audit_lines_of_changes_are_never_dropped(budget: LogBudget) -> None:
    write(2 * int(ALL.burst), status=200)
    assert write(10_000, event="audit", outcome="done") == 10_000
    assert write(10, event="audit", outcome="failed") == 0


def test_dropped_lines_are_counted(budget: LogBudget, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    write(100, status=401, address="192.0.2.1")
    write(30, "error", event="it failed")
    assert budget.take_dropped() == {}
    clock.now += 10
    assert budget.take_dropped() == {"request": 50, "other": 10}
    assert budget.take_dropped(now=True) == {}


@pytest.mark.parametrize(
    "text",
    ["\x7f", "\x85\x9b31m", "\u202eevil", "\u2028", "\ufeff", "\u200b", "\x1b[2J", "\n", "\ud800", "\U000e0001"],
    ids=ascii,
)
def test_control_characters_are_escaped(text: str) -> None:
    """A terminal shows JSON as it is; to a program the escaped text is the same."""
    fields = {"event": f"a{text}b", "details": {"name": text}}
    line = log_rendering.as_json(fields)
    assert line.isprintable()
    if text != "\ud800":
        assert json.loads(line) == fields


def test_printable_text_is_not_escaped() -> None:
    assert "Grüße 🥞 ƒ2oU" in log_rendering.as_json({"event": "Grüße 🥞 ƒ2oU"})


def test_values_that_json_cannot_represent() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in (object(), {1: {2: 3}}, b"\xff", deep, float("nan")):
        assert json.loads(log_rendering.as_json({"event": "a", "value": value}))["event"] == "a"


def test_long_values_are_shortened() -> None:
    fields = log_rendering.shorten(None, "info", {"event": "a", "path": "/" * 8000, "details": {"name": "n" * 8000}})
    assert len(fields["path"]) <= 1000
    assert len(fields["details"]["name"]) <= 1000
    traceback = log_rendering.shorten(None, "info", {"event": "a", "exception": "x" * 100_000})
    assert len(traceback["exception"]) <= 8000


def test_traceback_starts_no_log_line() -> None:
    """The text of an error may contain input of a caller."""
    forged = "2026-01-01T00:00:00Z [info     ] stop"
    fields = log_rendering._on_one_line(
        None, "error", {"event": "a", "exception": f"Traceback\nValueError: x\n{forged}\x1b[2J"}
    )
    assert not [line for line in fields["exception"].splitlines() if not re.match(r"  \| ", line)]
    assert "\x1b" not in fields["exception"]


#: Writes of Python itself to standard error: by threads, finalizers, warnings and wrong log calls.
_PYTHON_ERRORS = """
import logging, threading, warnings
from sidecar.telemetry import logs
from sidecar.config.telemetry import TelemetryOptions
logs.configure(TelemetryOptions(log_format="json"))
logs.take_over()
class Thing:
    def __del__(self):
        raise KeyError("finalizer")
def fail():
    raise KeyError("thread")
for number in range(200):
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Thing()
    warnings.warn(f"text {number}")
    logging.getLogger("a library").error("%s %s", number)
"""


def test_output_of_python_is_logged() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", _PYTHON_ERRORS], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} >= {"an error could not be raised", "a thread has died", "%s %s"}
    assert any("text 0" in line["event"] for line in lines)
    assert len(lines) < 4 * (REPEATED.burst + 20)


@pytest.mark.parametrize(("options", "stored"), [((), 0), (("-W", "default"), 100)])
def test_texts_of_warnings_are_not_stored(options: tuple[str, ...], stored: int) -> None:
    """Unless the options of Python enable warnings."""
    script = """
import sys, types, warnings
import sidecar.__main__ as program
def command():
    for number in range(100):
        warnings.warn(f"text {number}")
sys.modules["sidecar.cli"] = types.SimpleNamespace(main=command)
program.main()
print(sum(isinstance(key, tuple) for key in globals().get("__warningregistry__", ())))
"""
    done = subprocess.run([sys.executable, *options, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{stored}\n", done.stderr
    assert bool(done.stderr) == bool(stored)
