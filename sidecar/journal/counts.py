"""Job metrics: the number of jobs in each group now, and totals since the instance started.

The feed processes each event once. Totals are written to the store in the transaction of the event that they count, so
a server that was killed continues without counting a job twice. The groups follow from the store's jobs: they are
recounted when the journal begins, when it goes live and when the history is complete, and updated in between.
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
"""Name of a metric, and the values of its labels."""
Values = list[float]
"""Of a counter its value; of a histogram the sum, then the (not cumulative) count of each bucket."""


class JobGroup(NamedTuple):
    """Jobs that are counted together. Only jobs that could start are grouped by size, for autoscaling."""

    queue: str
    state: str
    held: bool = False
    nodes: int = 0
    """Requested nodes; 0 if the job does not request a number."""
    cores: int = 0


class JobCounts:
    """Counts of the jobs and events in the store."""

    def __init__(self) -> None:
        self.groups: Counter[JobGroup] = Counter()
        """Number of jobs in each group."""
        self.totals: dict[Cell, Values] = {}
        """Totals of events."""

    def reclassify(self, before: JobGroup | None, after: JobGroup | None) -> None:
        """Move a job from one group to another; None means that it is not counted."""
        if before == after:
            return
        if before is not None:
            self.groups[before] -= 1
            if not self.groups[before]:
                del self.groups[before]
        if after is not None:
            self.groups[after] += 1

    def remove(self, queue: str, state: str) -> None:
        """Take a job out of its group, in a state but SCHED; it was removed from the store."""
        self.reclassify(JobGroup(queue or ANONYMOUS, state), None)

    def load(
        self, groups: Iterable[tuple[str, str, bool, int, int, int]], totals: Iterable[tuple[str, str, str]]
    ) -> None:
        """Load the store's counts; the totals of a metric with changed buckets restart from 0."""
        self.groups = Counter()
        for queue, state, held, nodes, cores, count in groups:
            group = JobGroup(str(queue or ANONYMOUS), str(state), bool(held), int(nodes or 0), int(cores or 0))
            self.groups[group] += count
        self.totals = {}
        for name, labels, values in totals:
            try:
                cell = msgspec.json.decode(values, type=Values)
                key = name, tuple(msgspec.json.decode(labels, type=list[str]))
            except (ValueError, TypeError):  # a damaged row
                continue
            if len(cell) == _LENGTHS.get(name) and len(key[1]) == _LABELS[name]:
                self.totals[key] = cell

    def merged(self, deltas: Mapping[Cell, Values]) -> dict[Cell, Values]:
        """Return the new totals of the cells that change; the totals themselves stay as they are."""
        return {cell: _sum(self.totals.get(cell), delta) for cell, delta in deltas.items()}


def _sum(total: Values | None, delta: Values) -> Values:
    return delta if total is None else [a + b for a, b in zip(total, delta, strict=True)]


def group_of(job: Job) -> JobGroup:
    """Return the group of a job."""
    queue = job.queue or ANONYMOUS
    if job.state != "SCHED":
        return JobGroup(queue, job.state)
    if job.urgency == 0:
        return JobGroup(queue, job.state, held=True)
    return JobGroup(queue, job.state, False, job.nnodes or 0, job.ncores or 0)


class CountDeltas:
    """The changes of totals by a batch of events."""

    def __init__(self) -> None:
        self.cells: dict[Cell, Values] = {}

    def add(self, job: Job, entries: Iterable[Entry]) -> None:
        """Count eventlog entries of a job; ``job`` is its state after them."""
        for entry in entries:
            if counter := _COUNTERS.get(entry.name):
                counter(self, job, entry)

    def _count(self, metric: Metric, *labels: str) -> None:
        self.cells.setdefault((metric.name, labels), [0.0])[0] += 1

    def _observe(self, metric: Metric, since: float | UnsetType, until: float | UnsetType, *labels: str) -> None:
        if since is UNSET or until is UNSET:
            return
        seconds = max(0.0, until - since)  # nodes' clocks differ
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
    "validate": CountDeltas._accepted,  # an invalid job is not counted: Flux forgets it
    "alloc": CountDeltas._started,
    "exception": CountDeltas._raised,
    "clean": CountDeltas._ended,
}


_LABELS = {metric.name: len(metric.labels) for metric in metrics.TABLE}
_LENGTHS = {metric.name: len(metric.buckets) + 2 if metric.buckets else 1 for metric in metrics.TABLE}


def rows(totals: Mapping[Cell, Values]) -> list[tuple[str, str, str]]:
    """Encode cells as rows of the store."""
    return [
        (name, msgspec.json.encode(labels).decode(), msgspec.json.encode(values).decode())
        for (name, labels), values in totals.items()
    ]
