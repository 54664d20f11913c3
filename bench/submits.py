"""Rows ``submit``, ``bulk`` and ``latency``: submits, compared with Flux's own bindings.

Jobs are held, so that the submit is measured and not Flux's scheduler. The limit has its own broker, which holds as
many jobs and has no server; a bare program reads its journal, because each follower of a journal costs a broker CPU.
It has as many jobs in flight as the server's clients have requests. Limit and server are measured in turns, so that
both are affected by a changing speed of the machine.
"""

from __future__ import annotations

import json
import statistics
from contextlib import ExitStack

from bench.processes import MeasurementError, cpu_seconds, expect, program, run, say
from bench.row import Row, number
from bench.site import Volume, load

_CLIENTS, _JOBS, _BULK, _SINGLE = 64, 2000, 10_000, 200
_REQUEST = ["POST", "/v1/jobs/submit", {"Content-Type": "application/json"}, '{"command":["true"],"urgency":0}']


def submit(volume: Volume, rounds: int) -> list[Row]:
    """One job per request, by 64 clients as of a service with many users; each has one request in flight."""
    row = Row(
        key="submit",
        work=f"submit, one job a request, {_CLIENTS} clients",
        unit="jobs/s",
        to_reach=("≥", 0.8),
        limit_is=f"bare submit_async loop, {_CLIENTS} in flight, journal read",
    )
    cpu = Row(key="submit-cpu", work="CPU of the server for each", unit="ms", to_reach=("≤", 0.5), beside="alone")
    bare, site = volume.bare, volume.full
    unread: list[float] = []
    for _ in range(rounds):
        unread.append(run("limit", "rate", bare.uri, _JOBS, _CLIENTS))
        row.limits.append(_limit(volume, _JOBS, _CLIENTS))
        begin = cpu_seconds(site.server.pid)
        done = load(site.server.url, _CLIENTS, [_REQUEST] * _JOBS, volume.directory)
        site.server.http.get("/v1/jobs", params={"limit": 1}).raise_for_status()  # all events are stored
        cpu.figures.append(1000 * (cpu_seconds(site.server.pid) - begin) / _JOBS)
        row.figures.append(_JOBS / done["seconds"])
        say(f"  submit: limit {number(row.limits[-1])}/s, server {number(row.figures[-1])}/s")
    row.note = f"the limit without a reader of its journal: {number(statistics.median(unread))} jobs/s"
    return [row, cpu]


def bulk(volume: Volume, rounds: int) -> list[Row]:
    """Many jobs in one request, one per line: each result must have its own ID."""
    row = Row(
        key="bulk",
        work=f"submit, {_BULK:,} jobs in one request",
        unit="jobs/s",
        to_reach=("≥", 0.9),
        limit_is="bare submit_async loop, all in flight, journal read",
    )
    cpu = Row(key="bulk-cpu", work="CPU of the server for each", unit="ms", to_reach=("≤", 0.3), beside="alone")
    site = volume.full
    body = volume.directory / "bulk.ndjson"
    body.write_text("\n".join([json.dumps({"command": ["true"], "urgency": 0})] * _BULK) + "\n")
    for _ in range(rounds):
        begin = cpu_seconds(site.server.pid)
        done = run("post", site.server.url, "/v1/jobs/bulk", body)
        if done["accepted"] != _BULK:
            raise MeasurementError(f"{done['accepted']} of {_BULK} jobs were accepted")
        site.server.http.get("/v1/jobs", params={"limit": 1}).raise_for_status()
        cpu.figures.append(1000 * (cpu_seconds(site.server.pid) - begin) / _BULK)
        row.figures.append(_BULK / done["seconds"])
        row.limits.append(_limit(volume, _BULK, _BULK))
        say(f"  bulk: limit {number(row.limits[-1])}/s, server {number(row.figures[-1])}/s")
    return [row, cpu]


def _limit(volume: Volume, jobs: int, in_flight: int) -> float:
    """Return the rate of a bare loop on a broker whose journal is read by a bare reader."""
    with ExitStack() as stack:
        expect(stack.enter_context(program("reader", volume.bare.uri)), "reading")
        return float(run("limit", "rate", volume.bare.uri, jobs, in_flight))


def latency(volume: Volume, rounds: int) -> list[Row]:
    """Single submits without other load: the difference is what the server adds to Flux's own response time."""
    row = Row(
        key="latency",
        work=f"one submit alone, median of {_SINGLE}",
        unit="ms",
        to_reach=("≤", 2.0),
        beside="more",
        limit_is="bare submit_async and its answer",
    )
    bare, site = volume.bare, volume.full
    for _ in range(rounds):
        row.limits.append(run("limit", "latency", bare.uri, _SINGLE, 1))
        done = load(site.server.url, 1, [_REQUEST] * _SINGLE, volume.directory)
        row.figures.append(statistics.median(done["latencies"]) * 1000)
        say(f"  latency: limit {number(row.limits[-1])} ms, server {number(row.figures[-1])} ms")
    return [row]
