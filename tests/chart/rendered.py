"""Render the chart with `helm template`."""

from __future__ import annotations

import functools
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.harness import HELM, ROOT

CHART = ROOT / "helm/flux-sidecar"
EVERYTHING: dict[str, Any] = yaml.safe_load((CHART / "ci/everything.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
KUBERNETES = "1.33.0"

#: Values of ci/everything.yaml that `job` and `launcher` refuse, and values that only they accept.
FOR_JOB: dict[str, Any] = {
    "workload": "job",
    "maxSize": 0,
    "minSize": 0,
    "clusterDomain": "example.internal",
    "flux": {"view": "", "cores": 4},
}
FOR_LAUNCHER: dict[str, Any] = {"mode": "launcher", "flux": {"view": ""}, "auth": {"kubernetes": False}}

Objects = dict[tuple[str, str], dict[str, Any]]


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as helm does: maps are merged, anything else is replaced."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        result[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return result


def template(values: Mapping[str, Any], release: str = "flux", chart: Path = CHART) -> subprocess.CompletedProcess[str]:
    """Run `helm template`; the values are a separate file over the chart's defaults."""
    return _template(json.dumps(values), release, chart)


@functools.cache
def _template(values: str, release: str, chart: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(HELM), "template", release, str(chart), "--namespace", "lab", "--kube-version", KUBERNETES, "-f", "-"]
    return subprocess.run(argv, input=values, capture_output=True, text=True, timeout=60)


def render(values: Mapping[str, Any]) -> Objects:
    """Return the objects, by kind and name."""
    done = template(values)
    assert done.returncode == 0, done.stderr
    found = [each for each in yaml.safe_load_all(done.stdout) if each]
    objects = {(each["kind"], each["metadata"]["name"]): each for each in found}
    assert len(objects) == len(found), "two objects have one name"
    return objects


def refused(values: Mapping[str, Any], release: str = "flux") -> str:
    """Return helm's error for invalid values."""
    done = template(values, release)
    assert done.returncode != 0, done.stdout
    return done.stderr


def kinds(objects: Objects) -> set[str]:
    return {kind for kind, _ in objects}


def containers(objects: Objects) -> dict[str, dict[str, Any]]:
    """Return all containers of the workload and of the test, as Kubernetes would have them."""
    found: dict[str, dict[str, Any]] = {}
    for (kind, _), each in objects.items():
        if kind == "MiniCluster":
            found["init"] = each["spec"]["flux"]["container"]
            found |= {c["name"]: c for c in each["spec"]["containers"]}
        elif kind in ("Job", "Pod"):
            spec = each["spec"]["template"]["spec"] if kind == "Job" else each["spec"]
            found |= {c["name"]: c for c in [*spec.get("initContainers", ()), *spec["containers"]]}
    return found


def variables(container: Mapping[str, Any]) -> dict[str, str]:
    """Return a container's variables with plain values, in either form."""
    if "environment" in container:
        return dict(container["environment"])
    return {each["name"]: each["value"] for each in container.get("env", ()) if "value" in each}
