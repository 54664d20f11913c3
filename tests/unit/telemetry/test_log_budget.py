"""Lines of the log are bounded, and what is left out is counted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import structlog

from sidecar.telemetry import logs
from sidecar.telemetry.log_budget import ALL, SAME, STRANGER, STRANGERS, LogBudget
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
    found = LogBudget(clock)
    monkeypatch.setattr(logs, "BUDGET", found)
    return found


def spend(number: int, name: str = "info", **fields: Any) -> int:
    """Return how many lines of so many are written."""
    written = 0
    for _ in range(number):
        try:
            logs._spend(None, name, {"event": "request", **fields})
        except structlog.DropEvent:
            continue
        written += 1
    return written


def test_of_one_address(budget: LogBudget, clock: Clock) -> None:
    assert spend(1000, status=401, address="192.0.2.1") == STRANGER.once
    assert spend(10, status=401, address="192.0.2.2") == 10
    clock.now += 2
    assert spend(1000, status=401, address="192.0.2.1") == 2 * STRANGER.second


def test_of_an_address_of_ipv6(budget: LogBudget) -> None:
    written = sum(spend(1, status=403, address=f"2001:db8::{n:x}") for n in range(1000))
    assert written == STRANGER.once


def test_of_all_addresses(budget: LogBudget) -> None:
    written = sum(spend(1, status=429, address=f"192.0.{n // 250}.{n % 250}") for n in range(2000))
    assert written == STRANGERS.once


def test_before_a_caller_is_let_in_every_line_is_a_strangers(budget: LogBudget) -> None:
    token = ORIGIN.set(Origin("1", stranger="192.0.2.1"))
    try:
        assert spend(1000, status=400) == STRANGER.once
    finally:
        ORIGIN.reset(token)


def test_of_callers_who_are_let_in(budget: LogBudget) -> None:
    assert spend(2 * int(ALL.once), status=200) == ALL.once


@pytest.mark.parametrize("name", ["warning", "error", "exception", "critical"])
def test_of_one_error(budget: LogBudget, name: str) -> None:
    assert spend(1000, name, event="a request failed", error="a") == SAME.once
    assert spend(1, name, event="another") == 1


def test_of_what_libraries_say(budget: LogBudget) -> None:
    """Each of their lines may be another text: they count by their logger."""
    written = sum(spend(1, "error", event=f"Exception in callback <Handle {n}>", logger="asyncio") for n in range(1000))
    assert written == SAME.once


def test_a_change_that_was_made_is_always_in_the_audit(budget: LogBudget) -> None:
    spend(2 * int(ALL.once), status=200)
    assert spend(10_000, event="audit", outcome="done") == 10_000
    assert spend(10, event="audit", outcome="failed") == 0


def test_what_is_left_out_is_counted(budget: LogBudget, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    spend(100, status=401, address="192.0.2.1")
    spend(30, "error", event="it failed")
    assert budget.due() == {}
    clock.now += 10
    assert budget.due() == {"request": 50, "other": 10}
    assert budget.due(now=True) == {}


@pytest.mark.parametrize(
    "text",
    ["\x7f", "\x85\x9b31m", "\u202eevil", "\u2028", "\ufeff", "\u200b", "\x1b[2J", "\n", "\ud800", "\U000e0001"],
    ids=ascii,
)
def test_what_would_change_the_look_of_a_line(text: str) -> None:
    """A reader's terminal shows JSON as it is, and so it is escaped, as JSON may be: to a program it is the same."""
    fields = {"event": f"a{text}b", "details": {"name": text}}
    line = logs._json(fields)
    assert line.isprintable()
    if text != "\ud800":
        assert json.loads(line) == fields


def test_text_of_people_is_left_as_it_is() -> None:
    assert "Grüße 🥞 ƒ2oU" in logs._json({"event": "Grüße 🥞 ƒ2oU"})


def test_what_cannot_be_written_as_json() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    for value in (object(), {1: {2: 3}}, b"\xff", deep, float("nan")):
        assert json.loads(logs._json({"event": "a", "value": value}))["event"] == "a"


def test_long_values_are_shortened() -> None:
    fields = logs._shorten(None, "info", {"event": "a", "path": "/" * 8000, "details": {"name": "n" * 8000}})
    assert len(fields["path"]) <= 1000
    assert len(fields["details"]["name"]) <= 1000
    traceback = logs._shorten(None, "info", {"event": "a", "exception": "x" * 100_000})
    assert len(traceback["exception"]) <= 8000


def test_a_traceback_begins_no_line_of_its_own() -> None:
    """An error's text may be what a caller has sent."""
    forged = "2026-01-01T00:00:00Z [info     ] stop"
    fields = logs._on_one_line(None, "error", {"event": "a", "exception": f"Traceback\nValueError: x\n{forged}\x1b[2J"})
    assert not [line for line in fields["exception"].splitlines() if not re.match(r"  \| ", line)]
    assert "\x1b" not in fields["exception"]


#: What Python itself writes to standard error: of threads, of finalizers, of warnings, of loggers used wrongly.
_OTHERS = """
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


def test_what_python_writes_by_itself() -> None:
    done = subprocess.run([sys.executable, "-W", "always", "-c", _OTHERS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} >= {"an error could not be raised", "a thread has died", "%s %s"}
    assert any("text 0" in line["event"] for line in lines)
    assert len(lines) < 4 * (SAME.once + 20)


@pytest.mark.parametrize(("options", "kept"), [((), 0), (("-W", "default"), 100)])
def test_no_text_of_a_warning_is_kept(options: tuple[str, ...], kept: int) -> None:
    """Unless the options of Python ask for warnings."""
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
    assert done.stdout == f"{kept}\n", done.stderr
    assert bool(done.stderr) == bool(kept)
