"""Rows ``followers``, ``followers-memory`` and ``followers-lag``: one job's output to many at once.

The job writes its clock in each line, so a delay is from the job's ``print`` to the follower's ``recv``, on one
machine's clock. Flux's shell buffers output for up to half a second. This is part of the native watcher's delay too,
so the difference counts. The native watcher has its own job of the same kind, and runs alone: the thousand followers
must not slow it down.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from bench.processes import MeasurementError, Memory, Probe, expect, program, result, say
from bench.programs import writer
from bench.row import Row, number, percentile
from bench.site import Volume
from tests.support.harness import eventually

_FOLLOWERS, _LINES, _RATE = 1000, 1000, 100


def followers(volume: Volume, rounds: int) -> list[Row]:
    """A thousand followers, over Server-Sent Events; each must get every line."""
    delay = Row(
        key="followers",
        work=f"{_FOLLOWERS:,} followers of {_RATE} lines/s, p99 of the delay",
        unit="ms",
        to_reach=("≤", 200.0),
        beside="more",
        limit_is="one native watcher of the output, p99",
    )
    size = Row(
        key="followers-memory",
        work="memory for each follower",
        unit="KB",
        to_reach=("≤", 40.0),
        beside="alone",
        judge=max,
    )
    lag = Row(
        key="followers-lag",
        work="GET /livez meanwhile, p99",
        unit="ms",
        to_reach=("≤", 50.0),
        beside="alone",
    )
    site, worst, pieces = volume.full, [], []
    for _ in range(rounds):
        delay.limits.append(_native(volume) * 1000)
        with _job(volume) as (job, go), Memory(site.server.pid) as memory:
            path = f"/v1/jobs/{job}/output/stream?follow=true"
            with program("follow", site.server.url, path, _FOLLOWERS, _LINES) as process:
                expect(process, "following")
                with Probe(site.server.url, "/livez") as probe:
                    go.touch()
                    found = result(process, within=_LINES / _RATE + 120)
        delay.figures.append(found["p99"] * 1000)
        size.figures.append(memory.growth * 1e6 / 1024 / _FOLLOWERS)
        lag.figures.append(percentile(probe.latencies, 0.99) * 1000)
        worst.append(max(probe.latencies) * 1000)
        pieces.append(found["pieces"])
        say(
            f"  followers: native {number(delay.limits[-1])} ms, server {number(delay.figures[-1])} ms, "
            f"{number(size.figures[-1])} KB each, lag {number(lag.figures[-1])} ms"
        )
    delay.note = f"{number(pieces[-1])} pieces for {_LINES:,} lines"
    lag.note = f"worst {number(max(worst))} ms"
    return [delay, size, lag]


@contextlib.contextmanager
def _job(volume: Volume) -> Iterator[tuple[int, Path]]:
    """Start the job that writes once a file exists; yield it and the file. The job ends with the context."""
    server, go = volume.full.server, volume.new_directory("go") / "go"
    command = [sys.executable, str(Path(writer.__file__)), str(go), str(_LINES), str(_RATE)]
    job = server.submit(command)
    try:
        eventually(lambda: server.output(job) or None, within=60, what="the job's first line")
        yield job, go
    finally:
        go.touch()  # otherwise it would wait for ever
        server.ended(job, within=_LINES / _RATE + 60)


def _native(volume: Volume) -> float:
    """Return the p99 of the delays that a native watcher sees, in seconds."""
    with _job(volume) as (job, go), program("native", volume.full.broker.uri, job, _LINES) as process:
        expect(process, "following")
        go.touch()
        delays = result(process, within=_LINES / _RATE + 120)
    if len(delays) != _LINES:
        raise MeasurementError(f"the native watcher got {len(delays)} of {_LINES} lines")
    return percentile(delays, 0.99)
