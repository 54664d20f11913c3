"""Rows ``export``, ``fill`` and ``memory``: all jobs in one export, in one fill of the store, and at rest."""

from __future__ import annotations

import statistics
import time

from bench.processes import MeasurementError, Memory, rss, run, say
from bench.row import Row, number
from bench.site import Volume, fill

_NDJSON = "application/x-ndjson"
_SETTLED = 5.0


def export(volume: Volume, rounds: int) -> list[Row]:
    """Every job in one response. Memory is watched from before the first export to the end of the last."""
    speed = Row(key="export", work="export all jobs as NDJSON", unit="MB/s", to_reach=("≥", 50.0), beside="alone")
    growth = Row(
        key="export-memory",
        work="growth of the server's memory meanwhile",
        unit="MB",
        to_reach=("≤", 30.0),
        beside="alone",
        judge=max,
    )
    server = volume.full.server
    with Memory(server.pid) as memory:
        lines, size = 0, 0
        with server.http.stream("GET", "/v1/jobs", headers={"Accept": _NDJSON}, timeout=300) as answer:
            if not answer.headers["Content-Type"].startswith(_NDJSON):
                raise MeasurementError(f"the answer is {answer.headers['Content-Type']}, not {_NDJSON}")
            for piece in answer.iter_bytes():
                lines += piece.count(b"\n")
                size += len(piece)
        if lines < volume.jobs:
            raise MeasurementError(f"the export has {lines} of {volume.jobs} jobs")
        for _ in range(rounds):
            done = run("drain", server.url, "/v1/jobs", _NDJSON)
            if done["bytes"] < size:
                raise MeasurementError(f"the export ended after {done['bytes']} of {size} bytes")
            speed.figures.append(size / 1e6 / done["seconds"])
            growth.figures.append(memory.growth)
            say(f"  export: {number(speed.figures[-1])} MB/s, memory +{number(memory.growth)} MB")
    speed.note = f"{number(size / 1e6)} MB, {lines:,} jobs"
    growth.note = f"from {number(memory.begin)} MB"
    return [speed, growth]


def first_fill(volume: Volume, rounds: int) -> list[Row]:
    """A server with a new store, beside a broker that has all jobs: from the connection to the complete list.

    The limit receives the same journal and drops it; the server also folds each job's events, indexes them for search
    and writes them to disk.
    """
    row = Row(
        key="fill",
        work="first fill of the store",
        unit="s",
        to_reach=("≤", 2.5),
        limit_is="a bare reader of the journal",
    )
    sizes = Row(
        key="fill-memory",
        work="memory of all its processes meanwhile",
        unit="MB",
        to_reach=("≤", 200.0),
        beside="alone",
        judge=max,
    )
    ready = Row(key="ready", work="start until ready, without a store", unit="s", to_reach=("≤", 2.0), beside="alone")
    site = volume.ended
    latencies: dict[str, list[float]] = {}
    for _ in range(rounds):
        row.limits.append(run("journal", site.broker.uri, volume.jobs))
        filled = fill(volume, site)
        row.figures.append(filled.seconds)
        sizes.figures.append(filled.memory)
        ready.figures.append(filled.ready)
        for path, probe in filled.probes.items():
            latencies.setdefault(path, []).extend(probe.latencies)
        say(f"  fill: limit {number(row.limits[-1])} s, server {number(filled.seconds)} s")
    p99 = ", ".join(f"{path} {number(_p99(each) * 1000)} ms" for path, each in latencies.items())
    row.note = f"{number(volume.jobs / statistics.median(row.figures))} jobs/s; p99 of answers meanwhile: {p99}"
    ready.note = f"beside {volume.jobs:,} jobs that have ended"
    return [row, sizes, ready]


def _p99(values: list[float]) -> float:
    return sorted(values)[len(values) * 99 // 100]


def memory(volume: Volume, rounds: int) -> list[Row]:
    """The server at rest with all jobs: one that has read each of them live, and one that was just filled.

    The former is measured first, before it gets large requests; both count.
    """
    row = Row(
        key="memory",
        work="memory at rest, all jobs in the store",
        unit="MB",
        to_reach=("≤", 120.0),
        beside="alone",
        judge=max,
    )
    site = volume.full
    time.sleep(_SETTLED)
    live = rss(site.server.pid)
    server = fill(volume, site).server
    time.sleep(_SETTLED)
    filled = rss(server.pid)
    row.figures = [live, filled]
    row.note = f"which saw them live {number(live)} MB, just filled {number(filled)} MB; {site.held:,} jobs are active"
    say(f"  memory: {row.note}")
    return [row]
