"""Row ``soak``: half an hour of jobs at a steady rate, more than Flux executes on this machine, without Flux.

The jobs are generated (:mod:`bench.programs.generated_server`): 300 a second are submitted, start and end, and those
that have ended first are removed by ``--keep-jobs``. A page is read and a stream is followed all the time. After a
warm-up, in which the caches fill and the store reaches its size, memory, descriptors and lag are fitted with a straight
line over the time.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

from bench.processes import MeasurementError, Probe, program, rss, say
from bench.row import Row, number, percentile
from bench.site import Volume
from bench.slope import fit
from sidecar.store.schema import size_of
from tests.support.metrics import scrape

#: Less for a quick test: SOAK_SECONDS, SOAK_WARM_UP.
_SECONDS, _WARM_UP = float(os.environ.get("SOAK_SECONDS", "1800")), float(os.environ.get("SOAK_WARM_UP", "600"))
_RATE, _KEPT = 300, 100_000
_INTERVAL = 5.0  # seconds between two samples
_LAG = "flux_sidecar_journal_lag_seconds"


def soak(volume: Volume, _: int) -> list[Row]:
    """One run: the growth of memory, descriptors, lag and store in an hour."""
    if _SECONDS <= _WARM_UP:
        raise MeasurementError(f"SOAK_SECONDS must be more than SOAK_WARM_UP ({_WARM_UP:g})")
    server, store = volume.generated("soak", 0, _RATE, "--keep-jobs", str(_KEPT))
    server.ready()
    begin, points, lags = time.monotonic(), list[tuple[float, float, float, float, float]](), list[float]()
    with ExitStack() as stack:
        page = stack.enter_context(Probe(server.url, "/v1/jobs?limit=100"))
        stack.enter_context(program("drain", server.url, "/v1/events", "text/event-stream"))
        while (now := time.monotonic() - begin) < _SECONDS:
            lag = scrape(server.http)(_LAG)
            memory, files = rss(server.pid), len(list(Path(f"/proc/{server.pid}/fd").iterdir()))
            if now >= _WARM_UP:
                points.append((now / 3600, memory, files, lag, size_of(store) / 1e6))
                lags.append(lag)
            if int(now) % 60 < _INTERVAL:
                stored = size_of(store) / 1e6
                say(f"  {now:.0f} s: {number(memory)} MB, {files} files, lag {lag:.2f} s, store {stored:.0f} MB")
            time.sleep(_INTERVAL)
    rows = []
    for column, (key, unit, most) in enumerate(
        (("memory", "MB", 10.0), ("descriptors", "files", 2.0), ("lag", "s", 0.1), ("store", "MB", 20.0)), start=1
    ):
        row = Row(key="soak", work=f"{key}, growth in an hour", unit=unit, to_reach=("≤", most), beside="alone")
        row.figures.append(fit([point[0] for point in points], [point[column] for point in points]))
        row.note = f"{number(points[0][column])} at first, {number(points[-1][column])} at last"
        rows.append(row)
    slow = 1000 * percentile(page.latencies, 0.99)
    rows[2].note = f"p99 {percentile(lags, 0.99):.2f} s; p99 of a page {number(slow)} ms"
    volume.discard(server)
    return rows
