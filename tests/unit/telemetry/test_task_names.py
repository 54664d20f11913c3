"""Every background task is counted under its name from the start of the server, at 0."""

from __future__ import annotations

import ast
from pathlib import Path

import sidecar
from sidecar.telemetry.metrics import TASKS


def names() -> set[str]:
    """Return the names that the code gives to the tasks of the supervisor."""
    found = set()
    for path in Path(sidecar.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            arguments = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if node.func.attr in ("start", "record_death") and arguments and isinstance(arguments[0], str):
                found.add(arguments[0])
    return found


def test_every_task_has_a_metric() -> None:
    assert names() == set(TASKS)
