"""The notes that helm prints after an installation."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendered import CHART, FOR_JOB, template

pytestmark = pytest.mark.helm


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the chart with its notes in an object too: `helm template` prints none."""
    directory = tmp_path_factory.mktemp("chart") / "flux-sidecar"
    shutil.copytree(CHART, directory)
    notes = '{{ include (print .Template.BasePath "/NOTES.txt") . | quote }}'
    (directory / "templates/notes.yaml").write_text(f"kind: Notes\nnotes: {notes}\n")
    return directory


def notes(chart: Path, values: dict[str, Any]) -> str:
    done = template(values, chart=chart)
    assert done.returncode == 0, done.stderr
    return next(str(each["notes"]) for each in yaml.safe_load_all(done.stdout) if each and each["kind"] == "Notes")


def test_next_steps(chart: Path) -> None:
    text = notes(chart, {"server": {"port": 5050}, "service": {"port": 80}})
    assert "port-forward service/flux-api 5000:80 &" in text
    assert "In a browser: http://localhost:5000/ (log in with the token" in text
    assert "TOKEN=$(kubectl -n lab get secret flux-token" in text
    assert text.count('-H "Authorization: Bearer $TOKEN"') == 5
    assert "kubectl -n lab describe minicluster flux" in text
    assert "-c flux-sidecar --tail=-1\n" in text  # with a selector, kubectl shows ten lines
    assert "http://flux-api.lab.svc:80." in text
    assert "helm -n lab test flux\n" in f"{text}\n"


def test_location_of_the_log(chart: Path) -> None:
    assert "-c flux --tail=-1\n" in notes(chart, {"mode": "launcher", "nameOverride": "flux"})
    text = notes(chart, FOR_JOB)
    assert "describe job flux" in text
    assert "-c flux-sidecar" in text


def test_addresses_and_credentials_follow_the_values(chart: Path) -> None:
    text = notes(
        chart,
        {
            "tls": {"existingSecret": "tls"},
            "ingress": {"enabled": True, "hosts": ["flux.example.org"], "tls": [{"secretName": "tls"}]},
            "test": {"timeoutSeconds": 900},
        },
    )
    assert "In a browser: https://localhost:5000/" in text
    assert "From outside: https://flux.example.org/" in text
    assert "--timeout 960s" in text  # helm's own is shorter
    text = notes(chart, {"auth": {"token": False}, "server": {"environment": {"FLUX_SIDECAR_NO_AUTH": "true"}}})
    assert "TOKEN" not in text
    assert "helm -n lab test" not in text


def test_password_is_not_shown_as_a_token(chart: Path) -> None:
    secret = {"name": "login", "key": "password"}
    for given in ({"environment": {"FLUX_TOKEN": "x"}}, {"secretEnvironment": {"FLUX_TOKEN": secret}}):
        text = notes(chart, {"auth": {"token": False}, "server": given})
        assert text.count('curl -u fluxuser:"$PASSWORD"') == 5
        assert "Bearer" not in text
    text = notes(chart, {"auth": {"token": False}, "server": {"environment": {"FLUX_TOKEN": "x", "FLUX_USER": "ada"}}})
    assert 'curl -u ada:"$PASSWORD"' in text
    assert "Bearer" in notes(chart, {"server": {"environment": {"FLUX_TOKEN": "x"}}})


OPEN_TO_ALL: dict[str, Any] = {"networkPolicy": {"from": [{"namespaceSelector": {}}]}}


def test_access_from_outside(chart: Path) -> None:
    text = notes(chart, {"ingress": {"enabled": True, "hosts": ["flux.example.org", "*.example.com"]}})
    assert "From outside: http://flux.example.org/\n" in text
    assert "From outside: http, by any name below example.com\n" in text
    assert "*." not in text
    parents = [{"name": "gateway"}]
    text = notes(chart, {"httpRoute": {"enabled": True, "hostnames": ["flux.example.org"], "parentRefs": parents}})
    assert "From outside, through the Gateway's listener: flux.example.org\n" in text
    for kind in ("NodePort", "LoadBalancer"):
        text = notes(chart, {"service": {"type": kind}})
        assert f"From outside, through its {kind}: kubectl -n lab get service flux-api -o wide\n" in text
        assert ("server.environment.FLUX_SIDECAR_ALLOWED_HOSTS" in text) == (kind == "LoadBalancer")
    assert "From outside" not in notes(chart, {})


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"ingress": {"enabled": True, "hosts": ["flux.example.org"]}}, "networkPolicy.from"),
        ({"service": {"type": "NodePort"}}, "networkPolicy.from"),
        ({"service": {"type": "LoadBalancer"}}, "networkPolicy.from"),
        ({"metrics": {"monitor": "PodMonitor"}}, "metrics.from"),
    ],
)
def test_default_network_policy_blocks_access_from_outside(chart: Path, values: dict[str, Any], name: str) -> None:
    setting = f"--set '{name}[0].namespaceSelector.matchLabels.kubernetes\\.io/metadata\\.name=NAMESPACE'"
    assert setting in notes(chart, values)
    assert "The NetworkPolicy" not in notes(chart, values | OPEN_TO_ALL)
    assert "The NetworkPolicy" not in notes(chart, values | {"networkPolicy": {"enabled": False}})
    if name == "metrics.from":
        mine = {"metrics": {"monitor": "PodMonitor", "from": [{"namespaceSelector": {}}]}}
        assert "The NetworkPolicy" not in notes(chart, mine)


def test_ended_job_does_not_restart(chart: Path) -> None:
    """`helm template` does not look anything up: the text about an ended Job is rendered separately."""
    text = '{{ include "flux-sidecar.ended" (dict "root" . "ended" "Complete") | quote }}'
    extra = chart / "templates/ended.yaml"
    extra.write_text(f"kind: Ended\nnotes: {text}\n")
    done = template({"nameOverride": "science"}, chart=chart)
    extra.unlink()
    assert done.returncode == 0, done.stderr
    said = next(str(each["notes"]) for each in yaml.safe_load_all(done.stdout) if each and each["kind"] == "Ended")
    assert "The Job science is Complete: its instance has ended, and an upgrade does not start another one" in said
    assert "helm -n lab uninstall flux\n" in said
    assert "kubectl -n lab describe job science" in said
