"""Commands of the documents that need a cluster: helm renders them, and kubectl has their options."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.chart.rendered import CHART, KUBERNETES
from tests.support import pages
from tests.support.harness import HELM, ROOT

pytestmark = pytest.mark.helm

_OTHERS = {"MiniCluster", "HTTPRoute", "PodMonitor", "ServiceMonitor", "PrometheusRule"}
#: Options of install and upgrade alone.
_NOT_OF_TEMPLATE = {"--install", "--reuse-values"}


def _commands() -> list[tuple[str, str]]:
    """Return page and text of each helm command with the chart."""
    found = []
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = re.sub(r" *\\\n *", " ", path.read_text())
        commands = re.findall(r"helm (?:install|upgrade) [^`\n]*helm/flux-sidecar[^`\n]*", text)
        found += [(path.name, command.partition("   #")[0]) for command in commands]
    return found


@pytest.mark.parametrize(("page", "command"), _commands())
def test_helm_renders_the_command(page: str, command: str) -> None:
    words = [
        word
        for word in shlex.split(command.replace("REGISTRY", "registry.example"))[2:]
        if word not in _NOT_OF_TEMPLATE
    ]
    words = [str(CHART) if word == "helm/flux-sidecar" else word for word in words]
    argv = [str(HELM), "template", *words, "--namespace", "lab", "--kube-version", KUBERNETES]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{page}: {command}\n{done.stderr}"
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert {"Service", "Secret"} <= {each["kind"] for each in objects}
    for each in objects:
        if each["kind"] not in _OTHERS:
            kubernetes_validate.validate(each, "1.33", strict=True)


def test_operator_version_of_the_tutorial() -> None:
    pattern = r"flux-operator/([0-9a-f]{40})/"
    tutorial = re.findall(pattern, (ROOT / "docs/tutorial.md").read_text())
    assert tutorial == re.findall(pattern, (ROOT / "tests/e2e/in-kind").read_text())


def test_names_in_the_tutorial_are_consistent() -> None:
    """The cluster, the image and the release have the names that later commands use."""
    commands = [command for block in pages.blocks(ROOT / "docs/tutorial.md") for command in block.commands]
    text = "\n".join(commands)
    cluster = yaml.safe_load((ROOT / "kind-config.yaml").read_text())["name"]
    assert f"kind load docker-image --name {cluster} localhost/flux-sidecar:" in text
    assert f"kind delete cluster --name {cluster}" in text
    version = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    assert re.findall(r"localhost/flux-sidecar:(\S+)", text) == [version] * 2
    names = set(re.findall(r"science[\w-]*", text))
    assert names == {"science", "science-token", "science-api"}
    dashboard = Path(ROOT / "helm/flux-sidecar/files/dashboard.json").read_text()
    assert '"title": "Flux"' in dashboard
