"""What the server counts of itself while it works, as prometheus-client's instruments.

Names and help are those of :mod:`sidecar.metrics`. What is on the way of every request is looked up once and kept: an
instrument with labels costs as much to find as to use.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics import disable_created_metrics

from sidecar.domain.errors import ResponseTimeout, Unavailable
from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Metric
from sidecar.telemetry.tracing import Tracing

disable_created_metrics()  # type: ignore[no-untyped-call] # three times as many series, for what Prometheus does not read from them

_METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
_ELSEWHERE = "none"
_UNTRACED = nullcontext()
_REFUSALS = {401: "unauthenticated", 403: "forbidden", 421: "misdirected", 429: "rate_limited"}


class Instruments:
    """The instruments of one server.

    Args:
        tracing: spans what is measured too, where somebody wants traces.
    """

    def __init__(self, tracing: Tracing | None = None) -> None:
        self.tracing = tracing
        self.registry = CollectorRegistry(auto_describe=False)
        self._requests = self._counter(metrics.REQUESTS)
        self._durations = self._histogram(metrics.DURATION)
        self._refused = self._counter(metrics.REFUSED, metrics.REFUSALS)
        self._dropped = self._counter(metrics.DROPPED, metrics.DROPS)
        self._rpc = self._histogram(metrics.RPC)
        self._rpc_errors = self._counter(metrics.RPC_ERRORS)
        self._store_writes = self._histogram(metrics.STORE_WRITE)
        self._store_errors = self._counter(metrics.STORE_ERRORS)
        self._task_deaths = self._counter(metrics.TASK_DEATHS, metrics.TASKS)
        self._streams = self._gauge(metrics.STREAMS)
        self._in_flight = self._gauge(metrics.IN_FLIGHT)
        self.events = self._counter(metrics.EVENTS)
        """Job events that were stored."""
        self.restarts = self._counter(metrics.RECONNECTS)
        """Times that the journal began anew."""
        self._answers: dict[tuple[str, str, int], Counter] = {}
        self._times: dict[tuple[str, str], Histogram] = {}

    # ------------------------------------------------------------------------------------------------ requests

    def begin(self, route: str, *, stream: bool) -> None:
        """Note that a request is worked on."""
        self._in_flight.inc()
        if stream:
            self._streams.labels(route).inc()

    def end(self, method: str, route: str, code: int, seconds: float, *, stream: bool) -> None:
        """Note what came of it.

        Args:
            method: as it was sent.
            route: the path with its variables, as in openapi.json; empty when there is nothing at the path.
            code: status of the answer.
            seconds: from its head to the end of its answer.
            stream: whether it was a stream, which lasts as long as somebody likes.
        """
        method, path = method if method in _METHODS else "other", route or _ELSEWHERE
        answers = self._answers.get((method, path, code))
        if answers is None:
            answers = self._answers[method, path, code] = self._requests.labels(method, path, str(code))
        answers.inc()
        self._in_flight.dec()
        if stream:
            self._streams.labels(route).dec()
            return
        times = self._times.get((method, path))
        if times is None:
            times = self._times[method, path] = self._durations.labels(method, path)
        times.observe(seconds)

    def refused(self, status: int, *, denied: bool = False) -> None:
        """Note a caller who was not let in."""
        if reason := "denied" if denied else _REFUSALS.get(status):
            self._refused.labels(reason).inc()

    def dropped(self, reason: str) -> None:
        """Note a stream that was cut off."""
        self._dropped.labels(reason).inc()

    def task_died(self, name: str) -> None:
        """Note that a background task has died."""
        self._task_deaths.labels(name).inc()

    # ------------------------------------------------------------------------------------------ Flux and the store

    @contextmanager
    def rpc(self, topic: str) -> Iterator[None]:
        """Note how long Flux takes to answer, and how it refuses."""
        begin = time.perf_counter()
        try:
            with self.tracing.rpc(topic) if self.tracing else _UNTRACED:
                yield
        except OSError as exc:
            self._rpc_errors.labels(topic, errno.errorcode.get(exc.errno or 0, "other")).inc()
            raise
        except Unavailable as exc:
            self._rpc_errors.labels(topic, "ETIMEDOUT" if isinstance(exc, ResponseTimeout) else "ECONNRESET").inc()
            raise
        finally:
            self._rpc.labels(topic).observe(time.perf_counter() - begin)

    @contextmanager
    def store_write(self) -> Iterator[None]:
        """Note how long a transaction takes."""
        begin = time.perf_counter()
        with self._store_errors.count_exceptions():
            yield
        self._store_writes.observe(time.perf_counter() - begin)

    # ------------------------------------------------------------------------------------------------- the making

    def _counter(self, metric: Metric, values: tuple[str, ...] = ()) -> Counter:
        counter = Counter(metric.family, metric.help, metric.labels, registry=self.registry)
        for value in values:
            counter.labels(value)
        return counter

    def _gauge(self, metric: Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: Metric) -> Histogram:
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)
