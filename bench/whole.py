"""Rows ``export``, ``fill`` and ``memory``: all jobs in one export, in one fill of the store, and at rest."""

from __future__ import annotations

import statistics
import time

from bench.processes import MeasurementError, Memory, peak, rss, run, say
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

    The limit transfers one JSON array that is parsed and discarded; the server also folds each job's events, indexes
    them for search and writes them to disk.
    """
    row = Row(
        key="fill",
        work="first fill of the store",
        unit="s",
        to_reach=("≤", 2.0),
        limit_is="one job-list.list RPC of all jobs, parsed",
    )
    site = volume.full
    livez, listed, sizes = [], [], []
    for _ in range(rounds):
        row.limits.append(run("joblist", site.broker.uri, volume.jobs))
        server, seconds, (alive, first) = fill(volume, site)
        row.figures.append(seconds)
        livez.append(max(alive.latencies) * 1000)
        listed.append(max(first.latencies) * 1000)
        sizes.append(peak(server.pid))
        say(f"  fill: limit {number(row.limits[-1])} s, server {number(seconds)} s")
    row.note = (
        f"{number(volume.jobs / statistics.median(row.figures))} jobs/s; worst answers meanwhile: "
        f"/livez {number(max(livez))} ms, a list {number(max(listed))} ms; memory at most {number(max(sizes))} MB"
    )
    return [row]


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
    server, _, _ = fill(volume, site)
    time.sleep(_SETTLED)
    filled = rss(server.pid)
    row.figures = [live, filled]
    row.note = f"which saw them live {number(live)} MB, just filled {number(filled)} MB; {site.held:,} jobs are active"
    say(f"  memory: {row.note}")
    return [row]
