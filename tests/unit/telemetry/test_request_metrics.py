"""The metrics of requests are exposed as prometheus-client's own instruments would be."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sidecar.telemetry import metrics
from sidecar.telemetry.instruments import Instruments

REQUESTS = [
    ("GET", "/v1/jobs", 200, 0.001),
    ("GET", "/v1/jobs", 200, 0.0011),
    ("GET", "/v1/jobs", 503, 60.0),
    ("BREW", "", 501, 0.0),
    ("HEAD", "/livez", 200, 0.02),
]


def test_same_text_as_of_instruments() -> None:
    own, registry = Instruments(), CollectorRegistry(auto_describe=False)
    counter, histogram, gauge = (
        kind(metric.family, metric.help, metric.labels, registry=registry, **more)  # type: ignore[arg-type]
        for kind, metric, more in (
            (Counter, metrics.REQUESTS, {}),
            (Histogram, metrics.DURATION, {"buckets": metrics.DURATION.buckets}),
            (Gauge, metrics.IN_FLIGHT, {}),
        )
    )
    for method, route, code, seconds in REQUESTS:
        own.start_request(route, stream=False)
        own.end_request(method, route, code, seconds, stream=False)
        labels = (method if method != "BREW" else "other", route or "none")
        counter.labels(*labels, str(code)).inc()  # type: ignore[union-attr]
        histogram.labels(*labels).observe(seconds)  # type: ignore[union-attr]
    own.start_request("/v1/jobs", stream=False)
    gauge.inc()  # type: ignore[union-attr]
    for each in (metrics.REQUESTS, metrics.DURATION, metrics.IN_FLIGHT):
        names = [each.name]
        expected = [line for line in generate_latest(registry).decode().splitlines() if names[0] in line]
        found = [line for line in generate_latest(own.registry).decode().splitlines() if names[0] in line]
        assert sorted(found) == sorted(expected)


def test_streams_have_no_duration() -> None:
    own = Instruments()
    own.start_request("/v1/events", stream=True)
    own.end_request("GET", "/v1/events", 200, 5.0, stream=True)
    text = generate_latest(own.registry).decode()
    assert 'requests_total{code="200",method="GET",route="/v1/events"} 1.0' in text
    assert "http_request_duration_seconds_count" not in text
    assert "requests_in_flight 0.0" in text


def test_one_family_by_name() -> None:
    own = Instruments()
    own.start_request("/livez", stream=False)
    text = generate_latest(own.registry.restricted_registry(["flux_sidecar_http_requests_in_flight"])).decode()
    assert "flux_sidecar_http_requests_in_flight 1.0" in text
    assert "flux_sidecar_streams" not in text
