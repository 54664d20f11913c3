"""The process's environment."""

from __future__ import annotations

import pytest

from sidecar.config import environment
from tests.support.harness import ROOT


@pytest.mark.parametrize(
    ("given", "host", "port", "url"),
    [
        ("", "", "", "https://kubernetes.default.svc"),
        ("", "10.96.0.1", "443", "https://10.96.0.1:443"),
        ("", "fd00::1", "6443", "https://[fd00::1]:6443"),
        ("https://api.example.org", "10.96.0.1", "443", "https://api.example.org"),
    ],
)
def test_the_url_of_the_api_server(monkeypatch: pytest.MonkeyPatch, given: str, host: str, port: str, url: str) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    assert environment.api_server(given) == url


def test_jobs_do_not_inherit_settings() -> None:
    variables = {"FLUX_TOKEN": "t", "FLUX_SIDECAR_STORE": "s", "PORT": "1", "FLUX_URI": "u", "HOME": "/h"}
    assert environment.job_environment(variables) == {"FLUX_URI": "u", "HOME": "/h"}


def test_only_config_reads_the_environment() -> None:
    for path in (ROOT / "sidecar").rglob("*.py"):
        if path.parent.name != "config":
            assert "os.environ" not in path.read_text(), path
