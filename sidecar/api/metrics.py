"""``/metrics``, for Prometheus: a scrape reads memory, and asks neither Flux nor the store."""

from __future__ import annotations

import math
import platform
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.aiohttp import make_aiohttp_handler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

import sidecar
from sidecar.config.access import Scope
from sidecar.domain.errors import InvalidRequest, NotFound
from sidecar.domain.model import ANONYMOUS, Node
from sidecar.http.routing import Answer, Operation, operation, operations
from sidecar.instance import Instance
from sidecar.journal.counts import JobGroup
from sidecar.journal.feed import Feed
from sidecar.services.health import Health
from sidecar.services.launchers import Launchers
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.resources import ResourcePoller
from sidecar.store import Store
from sidecar.telemetry import metrics
from sidecar.telemetry.instruments import Instruments
from sidecar.telemetry.metrics import Metric

_QUEUES = 100
_MEDIA = ("text/plain", "application/openmetrics-text")
_BUCKETS = {metric.name: (*map(str, metric.buckets), "+Inf") for metric in metrics.TABLE if metric.buckets}


class MetricsQuery(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Which metrics."""

    names: Annotated[str, Meta(description="only the family of this name; may be given many times")] = msgspec.field(
        name="name[]", default=""
    )


class UsersQuery(MetricsQuery, frozen=True):
    """The same of the figures of users."""


class InstanceMetrics(Collector):
    """The instance, and what the server knows of itself without counting."""

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        survey: ResourcePoller,
        lifecycle: Lifecycle,
        launchers: Launchers,
        store: Store,
        *,
        health: Health,
        connections: Callable[[], int],
        counted: Collection[str],
    ) -> None:
        self._counted = counted
        self._instance = instance
        self._feed = feed
        self._survey = survey
        self._lifecycle = lifecycle
        self._launchers = launchers
        self._store = store
        self._connections = connections
        self._health = health

    def describe(self) -> Iterator[Family]:
        """Yield what there is, without values: for who asks for some families alone, and so that no name is twice."""
        for metric in metrics.TABLE:
            if metric.part != "users" and metric.name not in self._counted:
                yield Family(metric.family, metric.help, metric.kind)

    def collect(self) -> Iterator[Family]:
        """Yield all families; every value of an enumeration is there."""
        queues = self._queues()
        yield from self._jobs(queues)
        yield from self._totals(queues)
        yield from self._states_of_queues()
        yield from self._nodes(self._survey.resources.nodes)
        yield from self._of_instance()
        yield from self._of_server()

    def _queues(self) -> list[str]:
        told = {queue.name for queue in self._survey.queues.queues}
        tally = self._feed.tally
        seen = {kind.queue for kind in tally.kinds} | {
            labels[0] for name, labels in tally.totals if name == metrics.SUBMITS.name
        }
        # What jobs name may be anything, and each is some hundred series: those that Flux has, and some of the others.
        return sorted(told | set(sorted(seen - told)[:_QUEUES])) or [ANONYMOUS]

    def _jobs(self, queues: Sequence[str]) -> Iterator[Family]:
        jobs: Counter[tuple[str, str]] = Counter()
        held: Counter[str] = Counter()
        wanted: dict[str, int] = dict.fromkeys(queues, 0)
        cores = max((node.cores for node in self._survey.resources.nodes), default=0)
        for kind, number in self._feed.tally.kinds.items():
            jobs[kind.queue, kind.state.lower()] += number
            if kind.held:
                held[kind.queue] += number
            elif kind.state == "SCHED":
                wanted[kind.queue] = max(wanted.get(kind.queue, 0), _nodes(kind, cores))
        states = [(queue, state) for queue in queues for state in metrics.JOB_STATES]
        yield _gauge(metrics.JOBS, ((key, jobs[key]) for key in states))
        yield _gauge(metrics.HELD, (((queue,), held[queue]) for queue in queues))
        yield _gauge(metrics.PENDING_NODES, (((queue,), wanted[queue]) for queue in queues))

    def _totals(self, queues: Sequence[str]) -> Iterator[Family]:
        each = [(queue,) for queue in queues]
        results = [(queue, result) for queue in queues for result in metrics.JOB_RESULTS]
        exceptions = [(kind, severity) for kind in metrics.EXCEPTIONS for severity in metrics.SEVERITIES]
        totals = self._feed.tally.totals
        for metric, cells in (
            (metrics.SUBMITS, each),
            (metrics.RESULTS_OF_JOBS, results),
            (metrics.EXCEPTIONS_OF_JOBS, exceptions),
        ):
            counter = CounterMetricFamily(metric.family, metric.help, labels=metric.labels)
            for labels in cells:
                counter.add_metric(labels, totals.get((metric.name, labels), _NOTHING)[0])
            yield counter
        for metric, cells in (
            (metrics.WAIT, each),
            (metrics.SCHEDULING, each),
            (metrics.RUN, results),
            (metrics.CLEANUP, each),
        ):
            histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            bounds, nothing = _BUCKETS[metric.name], [0.0] * (len(metric.buckets) + 2)
            for labels in cells:
                seconds, *counts = totals.get((metric.name, labels), nothing)
                below, sofar = [], 0.0
                for bound, count in zip(bounds, counts, strict=True):
                    sofar += count
                    below.append((bound, sofar))
                histogram.add_metric(labels, below, seconds)
            yield histogram

    def _states_of_queues(self) -> Iterator[Family]:
        queues = self._survey.queues.queues
        yield _gauge(metrics.QUEUE_ENABLED, (((queue.name,), queue.enabled) for queue in queues))
        yield _gauge(metrics.QUEUE_STARTED, (((queue.name,), queue.started) for queue in queues))

    def _nodes(self, nodes: Sequence[Node]) -> Iterator[Family]:
        counts: dict[Metric, Counter[str]] = {
            metric: Counter() for metric in (metrics.NODES, metrics.CORES, metrics.GPUS)
        }
        for node in nodes:
            counts[metrics.NODES][node.state] += 1
            idle = "free" if node.state == "allocated" else node.state
            for metric, total, used in (
                (metrics.CORES, node.cores, node.cores_allocated),
                (metrics.GPUS, node.gpus, node.gpus_allocated),
            ):
                counts[metric]["allocated"] += used
                counts[metric][idle] += total - used
        for metric, count in counts.items():
            yield _gauge(metric, (((state,), count[state]) for state in metrics.NODE_STATES))
        busy = (node.rank for node in nodes if node.cores_allocated or node.gpus_allocated)
        yield _gauge(metrics.LAST_RANK, [((), max(busy, default=-1))])

    def _of_instance(self) -> Iterator[Family]:
        status, state = self._instance.status, self._lifecycle.state
        yield _gauge(metrics.UP, [((), status.connection == "ready")])
        yield _gauge(metrics.INFO, [((status.kind, status.version), 1)])
        yield _gauge(metrics.SIZE, [((), status.size)])
        yield _gauge(metrics.STATE, (((each,), each == state) for each in metrics.SERVICE_STATES))
        yield _gauge(metrics.ACTIVE_LAUNCHERS, [((), self._launchers.running)])

    def _of_server(self) -> Iterator[Family]:
        updated = min(self._survey.resources.updated, self._survey.queues.updated)
        yield _gauge(metrics.RESOURCES_AGE, [((), max(0.0, time.time() - updated))] if updated else [])
        yield _gauge(metrics.CAUGHT_UP, [((), self._feed.caught_up)])
        yield _gauge(metrics.LAG, [((), self._feed.lag)])
        yield _gauge(metrics.BACKLOG, [((), self._feed.backlog)])
        yield _gauge(metrics.CONNECTIONS, [((), self._connections())])
        yield _gauge(metrics.STORE_SIZE, [((), self._store.size)])
        checks = self._health.ready()
        yield _gauge(metrics.LOOP_LAG, [((), self._health.lag.seconds)])
        yield _gauge(metrics.CHECK, (((check.name,), not check.problem) for check in checks))
        yield _gauge(metrics.READY, [((), not any(check.problem for check in checks))])
        yield _gauge(metrics.BUILD, [((sidecar.__version__, platform.python_version()), 1)])


_NOTHING = (0.0,)


def _nodes(kind: JobGroup, cores: int) -> int:
    """How many nodes a pending job wants; from its cores where it did not say."""
    return kind.nodes or (math.ceil(kind.cores / cores) if cores else 1)


def _gauge(metric: Metric, values: Iterable[tuple[Sequence[str], float]]) -> GaugeMetricFamily:
    gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        gauge.add_metric(labels, value)
    return gauge


class MetricsResource:
    """Metrics.

    Args:
        meters: have the registry.
        collector: what the instruments do not count.
        store: is asked for users.
        open_to_all: whether nobody is asked who they are.
        users: whether figures by user are told.
    """

    tag = "metrics"

    def __init__(
        self, meters: Instruments, collector: Collector, store: Store, *, open_to_all: bool, users: bool
    ) -> None:
        self._scope: Scope | None = None if open_to_all else "read"
        self._store = store
        self._users = users
        registry = meters.registry
        registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._expose = make_aiohttp_handler(registry)

    def operations(self) -> list[Operation]:
        """Return the routes, with the scope that this server asks for."""
        return [msgspec.structs.replace(op, scope=self._scope) for op in operations(self)]

    @operation(
        "GET",
        "/metrics",
        use=False,
        quiet=True,
        port="metrics",
        query=MetricsQuery,
        loose=True,
        answers=(Answer("Metrics, as OpenMetrics or in Prometheus' own format", media=_MEDIA),),
        errors=(400,),
    )
    async def metrics(self, request: web.Request, query: MetricsQuery) -> web.StreamResponse:
        """Read the metrics of the instance and of this server, which docs/metrics.md describes."""
        _check(request)
        return await self._expose(request)

    @operation(
        "GET",
        "/metrics/users",
        use=False,
        quiet=True,
        port="metrics",
        query=UsersQuery,
        loose=True,
        answers=(Answer("Metrics, as OpenMetrics or in Prometheus' own format", media=_MEDIA),),
        errors=(400, 404),
    )
    async def users(self, request: web.Request, query: UsersQuery) -> web.StreamResponse:
        """Read figures of each user, where the server was started with --metrics-users.

        There are as many series as users, and who reads them learns who is there: they are a page of their own.
        """
        _check(request)
        if not self._users:
            raise NotFound("Figures of users are not told here: start the server with --metrics-users.")
        counts = await self._store.user_counts()
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Users(counts))
        return await make_aiohttp_handler(registry)(request)


def _check(request: web.Request) -> None:
    """Refuse what is not read, as all other routes do; the one parameter that there is may be given many times."""
    if unknown := request.query.keys() - {"name[]"}:
        raise InvalidRequest(f"'{min(unknown)}' is not a parameter here; there is name[].")


class _Users(Collector):
    def __init__(self, counts: dict[tuple[str, str], int]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[Family]:
        users = sorted({user for user, _ in self._counts})
        states = [(user, state) for user in users for state in metrics.JOB_STATES]
        yield _gauge(metrics.USER_JOBS, ((key, self._counts.get(key, 0)) for key in states))
