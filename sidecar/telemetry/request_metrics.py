"""Count and measure requests in plain numbers, which a collector exposes at a scrape.

prometheus-client takes a lock for each number, five for each request. Requests start and end on the event loop, where a
scrape is rendered too, so that numbers without a lock suffice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from sidecar.telemetry import metrics

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_NO_ROUTE = "none"
_BOUNDS = metrics.DURATION.buckets
_BUCKETS = (*map(str, _BOUNDS), "+Inf")


class RequestMetrics(Collector):
    """The requests of one server, by method, route and status."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._counts: dict[tuple[str, str, int], int] = {}
        self._durations: dict[tuple[str, str], list[int]] = {}
        self._seconds: dict[tuple[str, str], float] = {}

    def start(self) -> None:
        """Record the start of a request."""
        self._in_flight += 1

    def end(self, method: str, route: str, code: int, seconds: float | None) -> None:
        """Record the end of a request.

        Args:
            method: HTTP method of the request.
            route: path template, as in openapi.json; empty if no route matches the path.
            code: status of the response.
            seconds: duration; None if it is not observed.
        """
        self._in_flight -= 1
        method, route = method if method in _METHODS else "other", route or _NO_ROUTE
        key = method, route, code
        self._counts[key] = self._counts.get(key, 0) + 1
        if seconds is None:
            return
        kind = method, route
        buckets = self._durations.get(kind)
        if buckets is None:
            buckets = self._durations[kind] = [0] * len(_BUCKETS)
            self._seconds[kind] = 0.0
        buckets[bisect_left(_BOUNDS, seconds)] += 1
        self._seconds[kind] += seconds

    def describe(self) -> Iterator[Family]:
        """Yield the families without values: for ``name[]`` and for the registry's check for duplicates."""
        return (
            Family(each.family, each.help, each.kind)
            for each in (metrics.REQUESTS, metrics.DURATION, metrics.IN_FLIGHT)
        )

    def collect(self) -> Iterator[Family]:
        """Yield all families."""
        requests = CounterMetricFamily(metrics.REQUESTS.family, metrics.REQUESTS.help, labels=metrics.REQUESTS.labels)
        for (method, route, code), count in self._counts.items():
            requests.add_metric((method, route, str(code)), count)
        yield requests
        durations = HistogramMetricFamily(metrics.DURATION.name, metrics.DURATION.help, labels=metrics.DURATION.labels)
        for kind, buckets in self._durations.items():
            found = list(zip(_BUCKETS, map(float, accumulate(buckets)), strict=True))
            durations.add_metric(kind, found, self._seconds[kind])
        yield durations
        yield GaugeMetricFamily(metrics.IN_FLIGHT.name, metrics.IN_FLIGHT.help, self._in_flight)
