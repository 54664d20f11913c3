"""The dashboard, rules and example use existing metrics, and the rules fire as documented."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from docs import dashboard
from sidecar.telemetry.metrics import TABLE
from tests.support.harness import ROOT

RULES = ROOT / "helm/flux-sidecar/files/rules.yaml"
_NAME = re.compile(r"\b((?:flux|process|python)_[a-z_]+|up)\b(?=\s*[{\[)*]|\s*$)")


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def known() -> set[str]:
    names = {metric.name for metric in TABLE} | {"up", "process_resident_memory_bytes"}
    return names | {f"{metric.name}_{end}" for metric in TABLE for end in ("bucket", "count", "sum") if metric.buckets}


def test_the_dashboard_is_not_stale() -> None:
    assert dashboard.FILE.read_text() == dashboard.page(), "run `make docs`"


def test_the_dashboard_can_be_imported() -> None:
    document = json.loads(dashboard.page())
    panels = document["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {(grid["x"] + x, grid["y"] + y) for x in range(grid["w"]) for y in range(grid["h"])}
        assert not cells & taken, f"{panel['title']} overlaps another panel"
        assert grid["x"] + grid["w"] <= 24
        taken |= cells
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"]
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    shown = {name for _, expression in dashboard.queries() for name in _NAME.findall(expression)}
    assert shown - known() == set()
    assert {metric.name for metric in TABLE if metric.part != "users"} - {
        name.removesuffix("_bucket") for name in shown
    } == set()


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule(rule: dict[str, Any]) -> None:
    names = set(_NAME.findall(rule["expr"]))
    assert names - known() == set()
    # The chart narrows this matcher of each selector to its release.
    selectors = re.findall(r"{([^}]*)}", rule["expr"])
    assert selectors
    assert all(selector.startswith('job=~".+"') for selector in selectors)
    if alert := rule.get("alert"):
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        path, anchor = rule["annotations"]["runbook"].split("#")
        headings = re.findall(r"^## (\w+)$", (ROOT / path).read_text(), re.MULTILINE)
        assert alert in headings
        assert anchor == alert.lower()


@pytest.mark.prometheus
@pytest.mark.parametrize(
    "command", [["check", "rules", str(RULES)], ["test", "rules", str(ROOT / "tests/rules/test.yaml")]]
)
def test_promtool(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    tests = yaml.safe_load((ROOT / "tests/rules/test.yaml").read_text())["tests"]
    fired = {case["alertname"] for each in tests for case in each.get("alert_rule_test", ()) if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules() if "alert" in rule}
    # Each test lists all alerts that fire at that time, so other series beside them do not fire.
    for each in tests:
        for case in each.get("alert_rule_test", ()):
            assert len(each["input_series"]) > len(case["exp_alerts"]), each["name"]


def test_the_autoscalers_query_is_a_recording_rule() -> None:
    example = yaml.safe_load((ROOT / "examples/keda/scaledobject.yaml").read_text())
    (trigger,) = example["spec"]["triggers"]
    assert trigger["metadata"]["query"].partition("{")[0] in {rule.get("record") for rule in rules()}
    assert (trigger["metricType"], trigger["metadata"]["threshold"]) == ("AverageValue", "1")
    assert example["spec"]["scaleTargetRef"]["kind"] == "MiniCluster"


def test_links_of_the_documents_have_targets() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
