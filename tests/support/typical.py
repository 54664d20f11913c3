"""Jobs like those of the benchmark, without Flux: each with its jobspec and the ten entries of its eventlog."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import msgspec

from bench.programs import submit_many
from sidecar.domain.model import Event, JobEvents
from sidecar.journal import fold
from sidecar.journal.batch import Batch, job_row
from sidecar.journal.record import Record
from sidecar.store import LoggedEvents, Row

Written = tuple[list[Row], list[LoggedEvents]]
_BATCH, _STEP = 256, 20  # jobs
_BEGIN = 1_790_000_000.0  # Unix time at which the instance starts
_CLOCK, _SEQUENCE = 24, 10  # RFC 19: bits below the milliseconds, and those of the sequence number


def job(number: int, *, rate: float = 50.0) -> JobEvents:
    """Return the journal's history of a job that has run: its first events are at a distance of 1/rate seconds.

    Args:
        number: of the job, from 0 on.
        rate: jobs per second.
    """
    source = random.Random(number)
    since = number / rate + source.random() / rate
    times = [_BEGIN + since]
    for scale in (0.05, 0.02, 0.0001, 0.03, 0.04, 0.1, 0.02, 0.0001, 0.0001):
        times.append(times[-1] + scale * (0.5 + source.random()))
    jobid = int(1000 * since) << _CLOCK | (number % 1024)
    sched = {"annotations": {"sched": {"resource_summary": f"rank{number % 4}/core{number % 16}"}}}
    contexts: list[tuple[str, dict[str, Any]]] = [
        ("submit", {"userid": 0, "urgency": 16, "flags": 0, "version": 1}), ("validate", {}), ("depend", {}),
        ("priority", {"priority": 16}), ("alloc", sched), ("start", {}), ("finish", {"status": 0}),
        ("release", {"ranks": "all", "final": True}), ("free", {}), ("clean", {}),
    ]  # fmt: skip
    events = [Event(time, name, context) for time, (name, context) in zip(times, contexts, strict=True)]
    spec = json.loads(submit_many.jobspec(number, mock=False))
    del spec["attributes"]["system"]["environment"]  # Flux's journal redacts it
    resources = {"R_lite": [{"rank": str(number % 4), "children": {"core": str(number % 16)}}], "nodelist": ["node[0-3]"], "starttime": 0, "expiration": 0}  # fmt: skip
    return JobEvents(jobid, events, spec, {"version": 1, "execution": resources})


def history(first: int, count: int, position: int = 0) -> Iterator[Written]:
    """Yield the batches in which the feed writes a history: all events of a job together.

    Args:
        first: number of the first job.
        count: number of jobs.
        position: position of the last event before.
    """
    for start in range(first, first + count, _BATCH):
        batch = Batch(position)
        for number in range(start, min(start + _BATCH, first + count)):
            _fold(batch, {}, job(number))
        position = batch.position
        yield _written(batch)


def live(first: int, count: int, position: int = 0) -> Iterator[Written]:
    """Yield the batches in which the feed writes live jobs: each event alone, and among those of other jobs."""
    records: dict[int, Record] = {}
    for start in range(first, first + count + 2 * _STEP, _STEP):
        batch = Batch(position)
        parts: list[tuple[JobEvents, list[Event]]] = []
        # The jobs of this step are submitted, those of the step before start, and those before these end.
        for step, events in enumerate((slice(0, 4), slice(4, 6), slice(6, None))):
            before = start - step * _STEP
            jobs = [job(number) for number in range(max(first, before), min(first + count, before + _STEP))]
            parts += [(item, item.events[events]) for item in jobs]
        for turn in range(4):
            for item, some in parts:
                if turn < len(some):
                    _fold(batch, records, msgspec.structs.replace(item, events=some[turn : turn + 1]))
        position = batch.position
        yield _written(batch)


def _fold(batch: Batch, records: dict[int, Record], item: JobEvents) -> None:
    record = records.get(item.id) or fold.new_record(item)
    assert record
    batch.records[item.id] = records[item.id] = record
    batch.append(record.job, fold.extend(record, item))
    if not record.active:
        del records[item.id]


def _written(batch: Batch) -> Written:
    return [job_row(record) for record in batch.records.values()], batch.logged


def one_by_one(logged: LoggedEvents) -> list[LoggedEvents]:
    """Return the entries of a row as rows of their own."""
    return [
        msgspec.structs.replace(logged, position=number, count=1, json=msgspec.json.encode([entry]))
        for number, entry in logged.entries(0)
    ]
