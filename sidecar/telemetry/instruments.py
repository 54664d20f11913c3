"""Prometheus instruments: what the server counts and measures while it runs.

Names and help texts are those of :mod:`sidecar.telemetry.metrics`.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import disable_created_metrics

from sidecar.domain.errors import NotSent, ResponseTimeout, Unavailable
from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Metric
from sidecar.telemetry.request_metrics import RequestMetrics
from sidecar.telemetry.tracing import Tracing

disable_created_metrics()  # type: ignore[no-untyped-call] # they triple the series, and Prometheus does not use them

_NO_SPAN = nullcontext()
_REFUSALS = {401: "unauthenticated", 403: "forbidden", 421: "misdirected", 429: "rate_limited"}


class Instruments:
    """The instruments of one server.

    Args:
        tracing: opens a span for each RPC; None without traces.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.tracing = tracing
        self.registry = CollectorRegistry(auto_describe=False)
        self._requests = RequestMetrics()
        self.registry.register(self._requests)
        self._refused = self._counter(metrics.REFUSED, metrics.REFUSALS)
        self._dropped = self._counter(metrics.DROPPED, metrics.DROPS)
        self._rpc = self._histogram(metrics.RPC)
        self._rpc_errors = self._counter(metrics.RPC_ERRORS)
        self._store_writes = self._histogram(metrics.STORE_WRITE)
        self._store_errors = self._counter(metrics.STORE_ERRORS)
        self.removed_jobs = self._counter(metrics.STORE_REMOVED, metrics.REMOVALS)
        """Jobs that retention has removed, by reason."""
        self.retention_runs = self._gauge(metrics.STORE_RETENTION)
        """Time of its last run."""
        self._task_deaths = self._counter(metrics.TASK_DEATHS, metrics.TASKS)
        self._streams = self._gauge(metrics.STREAMS)
        self.events = self._counter(metrics.EVENTS)
        """Stored job events."""
        self.restarts = self._counter(metrics.RECONNECTS)
        """Restarts of the journal."""

    # ------------------------------------------------------------------------------------------------ requests

    def start_request(self, route: str, *, stream: bool) -> None:
        """Record the start of a request; see :meth:`end_request`."""
        self._requests.start()
        if stream:
            self._streams.labels(route).inc()

    def end_request(self, method: str, route: str, code: int, seconds: float, *, stream: bool) -> None:
        """Record the end of a request.

        Args:
            method: HTTP method of the request.
            route: path template, as in openapi.json; empty if no route matches the path.
            code: status of the response.
            seconds: from the request's head to the end of the response.
            stream: whether it was a stream; its duration is not observed.
        """
        self._requests.end(method, route, code, None if stream else seconds)
        if stream:
            self._streams.labels(route).dec()

    def count_refusal(self, status: int, *, denied: bool = False) -> None:
        """Count a request that was not admitted; other statuses than those of a refusal are ignored."""
        if reason := "denied" if denied else _REFUSALS.get(status):
            self._refused.labels(reason).inc()

    def count_dropped_stream(self, reason: str) -> None:
        """Count a stream that the server closed before its end."""
        self._dropped.labels(reason).inc()

    def count_task_death(self, name: str) -> None:
        """Count the death of a background task."""
        self._task_deaths.labels(name).inc()

    # ------------------------------------------------------------------------------------------ Flux and the store

    @contextmanager
    def rpc(self, topic: str) -> Iterator[None]:
        """Measure an RPC to Flux, trace it, and count its error."""
        started = time.perf_counter()
        try:
            with self.tracing.rpc(topic) if self.tracing else _NO_SPAN:
                yield
        except OSError as exc:
            self._rpc_errors.labels(topic, errno.errorcode.get(exc.errno or 0, "other")).inc()
            raise
        except Unavailable as exc:
            self._rpc_errors.labels(
                topic, "ETIMEDOUT" if isinstance(exc, NotSent | ResponseTimeout) else "ECONNRESET"
            ).inc()
            raise
        finally:
            self._rpc.labels(topic).observe(time.perf_counter() - started)

    @contextmanager
    def store_write(self) -> Iterator[None]:
        """Measure a transaction of the store, and count its error."""
        started = time.perf_counter()
        with self._store_errors.count_exceptions():
            yield
        self._store_writes.observe(time.perf_counter() - started)

    # ------------------------------------------------------------------------------------------------ constructors

    def _counter(self, metric: Metric, values: tuple[str, ...] = ()) -> Counter:
        counter = Counter(metric.family, metric.help, metric.labels, registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)
