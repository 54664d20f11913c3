"""Parses ``/metrics``."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text"


class Metrics:
    """One scrape."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        self.text = text
        self.families = list((parse_openmetrics if openmetrics else parse_text)(text))
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        """Return the value of one series."""
        return self.values[name, frozenset(labels.items())]

    def by(self, label: str, name: str, **labels: str) -> dict[str, float]:
        """Return the sums of a metric's series that have some labels, by the value of another."""
        found: dict[str, float] = {}
        for (each, pairs), value in self.values.items():
            if each == name and labels.items() <= (known := dict(pairs)).items():
                found[known[label]] = found.get(known[label], 0.0) + value
        return found

    def series(self, prefix: str = "") -> set[tuple[str, frozenset[tuple[str, str]]]]:
        """Return the names and labels of all series."""
        return {key for key in self.values if key[0].startswith(prefix)}


def scrape(client: httpx.Client, path: str = "/metrics", *, openmetrics: bool = False, **parameters: Any) -> Metrics:
    headers = {"Accept": f"{OPENMETRICS};version=1.0.0"} if openmetrics else {}
    answer = client.get(path, headers=headers, params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith(OPENMETRICS if openmetrics else "text/plain")
    return Metrics(answer.text, openmetrics=openmetrics)
