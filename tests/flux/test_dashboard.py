"""Queries of the dashboard and recording rules return data of a real Prometheus and a real server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from docs import dashboard
from tests.support.access import TokenFile
from tests.support.harness import ROOT, eventually, flux_start
from tests.support.prometheus import Prometheus
from tests.support.sse import Stream, ask

Start = Callable[[Any], Any]

RULES = ROOT / "helm/flux-sidecar/files/rules.yaml"


@pytest.mark.prometheus
@pytest.mark.long
def test_every_query_gives_data(tmp_path: Path, started: Start) -> None:
    tokens = TokenFile(tmp_path, scraper="read", admin="admin")
    server = started(flux_start(tmp_path, *tokens.options)).ready()
    credentials = tmp_path / "credentials"
    credentials.write_text(tokens.tokens["scraper"])
    host = httpx.URL(server.url).netloc.decode()
    prometheus = started(
        Prometheus(
            tmp_path / "prometheus",
            f"""
- job_name: flux
  authorization: {{credentials_file: {credentials}}}
  static_configs: [{{targets: ["{host}"], labels: {{namespace: lab}}}}]
""",
            rules=[RULES],
        )
    )
    empty: list[str] = []
    with (
        tokens.client(server, "admin") as admin,
        Stream(ask(server.url, "/v1/events", Authorization=f"Bearer {tokens.tokens['admin']}")),
    ):

        def all_have_data() -> bool:
            """Events happen all the time, as a rate needs more than one value."""
            for command, parameters in (
                ("true", {}),
                ("false", {}),
                ("sleep 9", {"runtime": 0.2}),
                ("true", {"urgency": 0}),
            ):
                answer = admin.post("/v1/jobs/submit", json={"command": command, **parameters})
                assert answer.status_code == 200, answer.text
            assert admin.post(f"/v1/jobs/{answer.json()['f58id']}/cancel").status_code == 200
            queries = [*dashboard.queries(), *(("rule", rule) for rule in recorded())]
            empty[:] = [f"{title}: {query}" for title, query in queries if not _has_data(prometheus, query)]
            return not empty

        eventually(all_have_data, within=300, what=f"data, of all queries: {empty}")
        # No alert fires here.
        fired = {each["metric"]["alertname"] for each in prometheus.query('ALERTS{alertstate="firing"}')}
        assert fired == set()


def recorded() -> list[str]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule["record"] for group in groups for rule in group["rules"] if "record" in rule]


def _has_data(prometheus: Prometheus, query: str) -> bool:
    """Return whether a query has a value; a quantile of nothing is NaN, which is not one."""
    return any(each["value"][1] != "NaN" for each in prometheus.query(query))
