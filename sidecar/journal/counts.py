"""What is counted of jobs: how many there are of each kind now, and what has happened since the instance began.

The feed tells each event once, so what has happened is counted here as it is told, and written to the store in the
transaction that holds the event itself: a server that is killed goes on where it was, and no job counts twice. How many
there are now follows from what the store holds; from one recount to the next it is only kept up to date.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from sidecar.domain.model import ANONYMOUS, Entry, Job
from sidecar.telemetry import metrics
from sidecar.telemetry.metrics import Metric

Cell = tuple[str, tuple[str, ...]]
"""A metric's name, and the values of its labels."""
Values = list[float]
"""Of a counter its value; of a histogram the sum, and how many fell into each bucket alone."""


class JobGroup(NamedTuple):
    """What jobs are counted together. Sizes only of those that could start: for them autoscaling asks."""

    queue: str
    state: str
    held: bool = False
    nodes: int = 0
    """How many nodes it wants; 0 where it did not say."""
    cores: int = 0


class JobCounts:
    """The figures, as they are in the store."""

    def __init__(self) -> None:
        self.kinds: Counter[JobGroup] = Counter()
        """How many jobs there are of each kind."""
        self.totals: dict[Cell, Values] = {}
        """What has happened."""

    def move(self, before: JobGroup | None, after: JobGroup | None) -> None:
        """Count a job that was of one kind as one of another; None is no job."""
        if before == after:
            return
        if before is not None:
            self.kinds[before] -= 1
            if not self.kinds[before]:
                del self.kinds[before]
        if after is not None:
            self.kinds[after] += 1

    def load(
        self, kinds: Iterable[tuple[str, str, bool, int, int, int]], totals: Iterable[tuple[str, str, str]]
    ) -> None:
        """Take what the store holds; totals that an earlier version had other buckets of begin anew."""
        self.kinds = Counter()
        for queue, state, held, nodes, cores, number in kinds:
            self.kinds[JobGroup(str(queue or ANONYMOUS), str(state), bool(held), int(nodes or 0), int(cores or 0))] += (
                number
            )
        self.totals = {}
        for name, labels, values in totals:
            try:
                cell = msgspec.json.decode(values, type=Values)
                key = name, tuple(msgspec.json.decode(labels, type=list[str]))
            except (ValueError, TypeError):  # a row that is damaged
                continue
            if len(cell) == _LENGTHS.get(name) and len(key[1]) == _LABELS[name]:
                self.totals[key] = cell

    def with_more(self, happened: Mapping[Cell, Values]) -> dict[Cell, Values]:
        """Return what the cells hold that change, with what has happened added."""
        return {cell: _sum(self.totals.get(cell), more) for cell, more in happened.items()}


def _sum(known: Values | None, more: Values) -> Values:
    return more if known is None else [a + b for a, b in zip(known, more, strict=True)]


def group_of(job: Job) -> JobGroup:
    """Return what a job counts as."""
    queue = job.queue or ANONYMOUS
    if job.state != "SCHED":
        return JobGroup(queue, job.state)
    if job.urgency == 0:
        return JobGroup(queue, job.state, held=True)
    return JobGroup(queue, job.state, False, job.nnodes or 0, job.ncores or 0)


class CountDeltas:
    """What a batch of events adds to the totals."""

    def __init__(self) -> None:
        self.cells: dict[Cell, Values] = {}

    def add(self, job: Job, entries: Iterable[Entry]) -> None:
        """Count entries of a job's eventlog; ``job`` is as they have left it."""
        for entry in entries:
            if counter := _COUNTERS.get(entry.name):
                counter(self, job, entry)

    def _count(self, metric: Metric, *labels: str) -> None:
        self.cells.setdefault((metric.name, labels), [0.0])[0] += 1

    def _observe(self, metric: Metric, since: float | UnsetType, until: float | UnsetType, *labels: str) -> None:
        if since is UNSET or until is UNSET:
            return
        seconds = max(0.0, until - since)  # clocks of several nodes
        cell = self.cells.setdefault((metric.name, labels), [0.0] * (len(metric.buckets) + 2))
        cell[0] += seconds
        cell[1 + bisect_left(metric.buckets, seconds)] += 1

    def _accepted(self, job: Job, entry: Entry) -> None:
        self._count(metrics.SUBMITS, job.queue or ANONYMOUS)

    def _started(self, job: Job, entry: Entry) -> None:
        queue = job.queue or ANONYMOUS
        self._observe(metrics.WAIT, job.t_submit, job.t_run, queue)
        self._observe(metrics.SCHEDULING, job.t_sched, job.t_run, queue)

    def _raised(self, job: Job, entry: Entry) -> None:
        kind = str(entry.context.get("type", ""))
        severity = "fatal" if entry.context.get("severity", 0) == 0 else "other"
        self._count(metrics.EXCEPTIONS_OF_JOBS, kind if kind in metrics.EXCEPTIONS else "other", severity)

    def _ended(self, job: Job, entry: Entry) -> None:
        queue, result = job.queue or ANONYMOUS, str(entry.result).lower()
        self._count(metrics.RESULTS_OF_JOBS, queue, result)
        self._observe(metrics.RUN, job.t_run, job.t_cleanup, queue, result)
        self._observe(metrics.CLEANUP, job.t_cleanup, job.t_inactive, queue)


_COUNTERS = {
    "validate": CountDeltas._accepted,  # a job that is not valid is none: Flux forgets it
    "alloc": CountDeltas._started,
    "exception": CountDeltas._raised,
    "clean": CountDeltas._ended,
}


_LABELS = {metric.name: len(metric.labels) for metric in metrics.TABLE}
_LENGTHS = {metric.name: len(metric.buckets) + 2 if metric.buckets else 1 for metric in metrics.TABLE}


def rows(totals: Mapping[Cell, Values]) -> list[tuple[str, str, str]]:
    """Return cells as rows of the store."""
    return [
        (name, msgspec.json.encode(labels).decode(), msgspec.json.encode(values).decode())
        for (name, labels), values in totals.items()
    ]
