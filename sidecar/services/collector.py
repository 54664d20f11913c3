"""Prometheus collectors of the values that are read at a scrape instead of being counted by instruments.

A scrape reads memory only: it sends no RPC to Flux and no query to the store. Every value of an enumeration is exposed,
at 0 if there is nothing to count.
"""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

import sidecar
from sidecar.domain.model import ANONYMOUS, Node
from sidecar.instance import Instance
from sidecar.journal.counts import JobGroup
from sidecar.journal.feed import Feed
from sidecar.services.health import Health
from sidecar.services.launchers import Launchers
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.resources import ResourcePoller
from sidecar.store import Store
from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Metric

_MAX_UNKNOWN_QUEUES = 100
_NO_TOTAL = (0.0,)
_BUCKETS = {metric.name: (*map(str, metric.buckets), "+Inf") for metric in metrics.TABLE if metric.buckets}
_SERVER_METRICS = (
    metrics.CONNECTIONS,
    metrics.CAUGHT_UP,
    metrics.HISTORY,
    metrics.LAG,
    metrics.BACKLOG,
    metrics.RESOURCES_AGE,
    metrics.STORE_SIZE,
    metrics.LOOP_LAG,
    metrics.CHECK,
    metrics.READY,
    metrics.BUILD,
)


class InstanceCollector(Collector):
    """Jobs, queues, nodes and the state of the instance.

    Args:
        instance: the instance, for its status.
        feed: counts of jobs.
        poller: the nodes and queues that Flux reported last.
        lifecycle: state of the service.
        launchers: running launchers.
    """

    def __init__(
        self, instance: Instance, feed: Feed, poller: ResourcePoller, lifecycle: Lifecycle, launchers: Launchers
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._poller = poller
        self._lifecycle = lifecycle
        self._launchers = launchers

    def describe(self) -> Iterator[Family]:
        """Yield the families without values: for ``name[]`` and for the registry's check for duplicates."""
        return _described(metric for metric in metrics.TABLE if metric.part not in ("server", "users"))

    def collect(self) -> Iterator[Family]:
        """Yield all families."""
        queues = self._queue_names()
        yield from self._jobs(queues)
        yield from self._counters(queues)
        yield from self._histograms(queues)
        yield from self._queue_states()
        yield from _node_families(self._poller.resources.nodes)
        yield from self._instance_state()

    def _queue_names(self) -> list[str]:
        """Return Flux's queues and a bounded number of other names: jobs may name any, and each is some 100 series."""
        known = {queue.name for queue in self._poller.queues.queues}
        counts = self._feed.counts
        seen = {kind.queue for kind in counts.groups} | {
            labels[0] for name, labels in counts.totals if name == metrics.SUBMITS.name
        }
        return sorted(known | set(sorted(seen - known)[:_MAX_UNKNOWN_QUEUES])) or [ANONYMOUS]

    def _jobs(self, queues: Sequence[str]) -> Iterator[Family]:
        jobs: Counter[tuple[str, str]] = Counter()
        held: Counter[str] = Counter()
        requested: dict[str, int] = dict.fromkeys(queues, 0)
        cores = max((node.cores for node in self._poller.resources.nodes), default=0)
        for kind, number in self._feed.counts.groups.items():
            jobs[kind.queue, kind.state.lower()] += number
            if kind.held:
                held[kind.queue] += number
            elif kind.state == "SCHED":
                requested[kind.queue] = max(requested.get(kind.queue, 0), _requested_nodes(kind, cores))
        states = [(queue, state) for queue in queues for state in metrics.JOB_STATES]
        yield _gauge(metrics.JOBS, ((labels, jobs[labels]) for labels in states))
        yield _gauge(metrics.HELD, (((queue,), held[queue]) for queue in queues))
        yield _gauge(metrics.PENDING_NODES, (((queue,), requested[queue]) for queue in queues))

    def _counters(self, queues: Sequence[str]) -> Iterator[Family]:
        results = [(queue, result) for queue in queues for result in metrics.JOB_RESULTS]
        exceptions = [(kind, severity) for kind in metrics.EXCEPTIONS for severity in metrics.SEVERITIES]
        totals = self._feed.counts.totals
        for metric, series in (
            (metrics.SUBMITS, [(queue,) for queue in queues]),
            (metrics.RESULTS_OF_JOBS, results),
            (metrics.EXCEPTIONS_OF_JOBS, exceptions),
        ):
            counter = CounterMetricFamily(metric.family, metric.help, labels=metric.labels)
            for labels in series:
                counter.add_metric(labels, totals.get((metric.name, labels), _NO_TOTAL)[0])
            yield counter

    def _histograms(self, queues: Sequence[str]) -> Iterator[Family]:
        each = [(queue,) for queue in queues]
        results = [(queue, result) for queue in queues for result in metrics.JOB_RESULTS]
        totals = self._feed.counts.totals
        for metric, series in (
            (metrics.WAIT, each),
            (metrics.SCHEDULING, each),
            (metrics.RUN, results),
            (metrics.CLEANUP, each),
        ):
            histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            bounds, zeros = _BUCKETS[metric.name], [0.0] * (len(metric.buckets) + 2)
            for labels in series:
                seconds, *counts = totals.get((metric.name, labels), zeros)
                buckets, cumulative = [], 0.0
                for bound, count in zip(bounds, counts, strict=True):
                    cumulative += count
                    buckets.append((bound, cumulative))
                histogram.add_metric(labels, buckets, seconds)
            yield histogram

    def _queue_states(self) -> Iterator[Family]:
        queues = self._poller.queues.queues
        yield _gauge(metrics.QUEUE_ENABLED, (((queue.name,), queue.enabled) for queue in queues))
        yield _gauge(metrics.QUEUE_STARTED, (((queue.name,), queue.started) for queue in queues))

    def _instance_state(self) -> Iterator[Family]:
        status, state = self._instance.status, self._lifecycle.state
        yield _gauge(metrics.UP, [((), status.connection == "ready")])
        yield _gauge(metrics.INFO, [((status.kind, status.version), 1)])
        yield _gauge(metrics.SIZE, [((), status.size)])
        yield _gauge(metrics.STATE, (((each,), each == state) for each in metrics.SERVICE_STATES))
        yield _gauge(metrics.ACTIVE_LAUNCHERS, [((), self._launchers.running)])


class ServerCollector(Collector):
    """The state of this server.

    Args:
        feed: progress of the journal.
        poller: age of the nodes and queues.
        store: size of the store.
        health: the checks of ``/readyz`` and the lag of the event loop.
        connections: returns the number of open connections.
    """

    def __init__(
        self, feed: Feed, poller: ResourcePoller, store: Store, health: Health, connections: Callable[[], int]
    ) -> None:
        self._feed = feed
        self._poller = poller
        self._store = store
        self._health = health
        self._connections = connections

    def describe(self) -> Iterator[Family]:
        """Yield the families without values: for ``name[]`` and for the registry's check for duplicates."""
        return _described(_SERVER_METRICS)

    def collect(self) -> Iterator[Family]:
        """Yield all families."""
        updated = min(self._poller.resources.updated, self._poller.queues.updated)
        yield _gauge(metrics.CONNECTIONS, [((), self._connections())])
        yield _gauge(metrics.CAUGHT_UP, [((), self._feed.caught_up)])
        progress = self._feed.history.progress
        yield _gauge(metrics.HISTORY, [(("read",), progress.read), (("total",), progress.total)])
        yield _gauge(metrics.LAG, [((), self._feed.lag)])
        yield _gauge(metrics.BACKLOG, [((), self._feed.backlog)])
        yield _gauge(metrics.RESOURCES_AGE, [((), max(0.0, time.time() - updated))] if updated else [])
        yield _gauge(metrics.STORE_SIZE, [((), self._store.size)])
        checks = self._health.ready()
        yield _gauge(metrics.LOOP_LAG, [((), self._health.lag.seconds)])
        yield _gauge(metrics.CHECK, (((check.name,), not check.problem) for check in checks))
        yield _gauge(metrics.READY, [((), not any(check.problem for check in checks))])
        yield _gauge(metrics.BUILD, [((sidecar.__version__, platform.python_version()), 1)])


class UserCollector(Collector):
    """Jobs by user.

    Args:
        counts: number of jobs by user and state (lower case).
    """

    def __init__(self, counts: Mapping[tuple[str, str], int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Family]:
        """Yield the family."""
        users = sorted({user for user, _ in self._counts})
        states = [(user, state) for user in users for state in metrics.JOB_STATES]
        yield _gauge(metrics.USER_JOBS, ((labels, self._counts.get(labels, 0)) for labels in states))


def _node_families(nodes: Sequence[Node]) -> Iterator[Family]:
    counts: dict[Metric, Counter[str]] = {metric: Counter() for metric in (metrics.NODES, metrics.CORES, metrics.GPUS)}
    for node in nodes:
        counts[metrics.NODES][node.state] += 1
        unused_state = "free" if node.state == "allocated" else node.state
        for metric, total, used in (
            (metrics.CORES, node.cores, node.cores_allocated),
            (metrics.GPUS, node.gpus, node.gpus_allocated),
        ):
            counts[metric]["allocated"] += used
            counts[metric][unused_state] += total - used
    for metric, count in counts.items():
        yield _gauge(metric, (((state,), count[state]) for state in metrics.NODE_STATES))
    busy = (node.rank for node in nodes if node.cores_allocated or node.gpus_allocated)
    yield _gauge(metrics.LAST_RANK, [((), max(busy, default=-1))])


def _requested_nodes(kind: JobGroup, cores: int) -> int:
    """Return how many nodes a pending job requests; computed from its cores if the jobspec requests no nodes."""
    return kind.nodes or (math.ceil(kind.cores / cores) if cores else 1)


def _described(table: Iterable[Metric]) -> Iterator[Family]:
    return (Family(metric.family, metric.help, metric.kind) for metric in table)


def _gauge(metric: Metric, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        gauge.add_metric(labels, value)
    return gauge
