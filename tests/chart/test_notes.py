"""What helm prints after an installation."""

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
    """A copy of the chart that has its notes in an object too: `helm template` shows none."""
    directory = tmp_path_factory.mktemp("chart") / "flux-sidecar"
    shutil.copytree(CHART, directory)
    notes = '{{ include (print .Template.BasePath "/NOTES.txt") . | quote }}'
    (directory / "templates/notes.yaml").write_text(f"kind: Notes\nnotes: {notes}\n")
    return directory


def notes(chart: Path, values: dict[str, Any]) -> str:
    done = template(values, chart=chart)
    assert done.returncode == 0, done.stderr
    return next(str(each["notes"]) for each in yaml.safe_load_all(done.stdout) if each and each["kind"] == "Notes")


def test_the_way_on(chart: Path) -> None:
    text = notes(chart, {"server": {"port": 5050}, "service": {"port": 80}})
    assert "port-forward service/flux-api 5000:80 &" in text
    assert "In a browser: http://localhost:5000/ (log in with the token" in text
    assert "TOKEN=$(kubectl -n lab get secret flux-token" in text
    assert text.count('-H "Authorization: Bearer $TOKEN"') == 5
    assert "kubectl -n lab describe minicluster flux" in text
    assert "-c flux-sidecar" in text
    assert "http://flux-api.lab.svc:80." in text
    assert "helm -n lab test flux\n" in f"{text}\n"


def test_where_the_log_is(chart: Path) -> None:
    assert "-c flux\n" in notes(chart, {"mode": "launcher", "nameOverride": "flux"})
    text = notes(chart, FOR_JOB)
    assert "describe job flux" in text
    assert "-c flux-sidecar" in text


def test_addresses_and_credentials_follow_the_values(chart: Path) -> None:
    text = notes(
        chart,
        {
            "tls": {"existingSecret": "tls"},
            "ingress": {"enabled": True, "hosts": ["flux.example.org"]},
            "test": {"timeoutSeconds": 900},
        },
    )
    assert "In a browser: https://localhost:5000/" in text
    assert "From outside: https://flux.example.org/" in text
    assert "--timeout 960s" in text  # helm's own is shorter
    text = notes(chart, {"auth": {"token": False}, "server": {"environment": {"FLUX_SIDECAR_NO_AUTH": "true"}}})
    assert "TOKEN" not in text
    assert "helm -n lab test" not in text
