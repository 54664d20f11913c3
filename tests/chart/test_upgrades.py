"""Changes that an upgrade of a running release may make, by the ConfigMap of its record."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.chart.rendered import CHART, merged, render, template

pytestmark = pytest.mark.helm


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart that compares with the record in a file: `helm template` does not look anything up in a
    cluster.
    """
    directory = tmp_path_factory.mktemp("chart") / "flux-sidecar"
    shutil.copytree(CHART, directory)
    (directory / "templates/compare.yaml").write_text(
        "{{- $record := .Values.global.record }}\n"
        '{{- include "flux-sidecar.checkChanges" (dict "root" . "record" $record "kind" $record.kind "name" "flux") }}\n'
    )
    return directory


def record(values: Mapping[str, Any]) -> dict[str, str]:
    return dict(render(values)["ConfigMap", "flux-record"]["data"])


def upgrade(to: Path, before: Mapping[str, Any], after: Mapping[str, Any], /, **recorded: str) -> str:
    """Return the error of an upgrade, empty if it is allowed."""
    done = template(merged(after, {"global": {"record": record(before) | recorded}}), chart=to)
    return done.stderr if done.returncode else ""


JOB: dict[str, Any] = {"workload": "job"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {}),
        ({"maxSize": 2}, {"maxSize": 2, "size": 2}),
        ({"maxSize": 3, "size": 3}, {"maxSize": 3, "size": 1}),
        ({"mode": "launcher", "maxSize": 2}, {"mode": "launcher", "maxSize": 2, "size": 2}),
        ({}, {"service": {"port": 80}, "auth": {"callers": ["ci:read:" + "a" * 64]}}),
        (JOB, JOB | {"job": {"backoffLimit": 3, "ttlSecondsAfterFinished": 30}}),
    ],
)
def test_allowed_changes(chart: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    assert upgrade(chart, before, after) == ""


@pytest.mark.parametrize(
    ("before", "after", "name"),
    [
        ({}, {"size": 2}, "size"),
        ({"maxSize": 2}, {"maxSize": 3}, "maxSize"),
        ({"size": 2, "maxSize": 2}, {"size": 2, "minSize": 1, "maxSize": 2}, "minSize"),
        (JOB, JOB | {"size": 2}, "size"),
        ({}, {"serviceAccount": {"create": False, "name": "flux"}}, "serviceAccount.create"),
        ({}, {"serviceAccount": {"name": "other"}}, "serviceAccount.name"),
        ({}, {"rbac": {"create": False}}, "rbac.create"),
        (
            {"auth": {"kubernetes": True}, "serviceAccount": {"name": "a"}},
            {"auth": {"kubernetes": True}, "serviceAccount": {"name": "a"}, "rbac": {"create": False}},
            "rbac.create",
        ),
        ({}, {"server": {"port": 6000}}, "server.port"),
    ],
)
def test_refused_changes_are_named(chart: Path, before: dict[str, Any], after: dict[str, Any], name: str) -> None:
    said = upgrade(chart, before, after)
    assert f"its pods cannot be changed: an upgrade cannot change {name}. Use its current values" in said
    assert "--reuse-values does so for values that you leave out" in said


def test_changed_pods_are_attributed_to_another_chart_version(chart: Path) -> None:
    said = upgrade(chart, {}, {}, pods="another", chart="0.0.9")
    assert "chart 0.0.9 made them, and this chart (0.1.0) would make different ones" in said
    said = upgrade(chart, {}, {}, pods="another")
    assert "because of a value that affects pods" in said
    assert "0.1.0" not in said


def test_value_missing_in_an_older_record_is_not_a_change(chart: Path) -> None:
    values = json.loads(record({})["values"])
    del values["serviceAccount.create"]
    assert upgrade(chart, {}, {"serviceAccount": {"annotations": {"a": "b"}}}, values=json.dumps(values)) == ""
