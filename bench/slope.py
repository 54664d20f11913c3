"""Row ``slope``: memory, descriptors and lag that the server keeps for each job submitted through it.

Jobs are held and canceled in batches, so that none is active in the end and Flux's own work stays the same. After a
warm-up, in which caches and pools fill, memory, descriptors and lag are fitted with a straight line over the jobs: a
server that keeps nothing has slope 0, however long it runs.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from bench.processes import MeasurementError, rss, say
from bench.row import Row
from bench.site import Volume, load
from tests.support.harness import Server, eventually
from tests.support.metrics import scrape

#: Fewer for a quick test: SLOPE_JOBS, SLOPE_WARM_UP.
_JOBS = int(os.environ.get("SLOPE_JOBS", "50000"))
_WARM_UP = int(os.environ.get("SLOPE_WARM_UP", "5000"))
_BATCH, _CLIENTS = 500, 32
_KB_A_JOB = 0.15  # of 1000 jobs 0.15 MB: a quarter of an hour's noise of the allocator over 50,000
_LAG = "flux_sidecar_journal_lag_seconds"
_SUBMIT = ["POST", "/v1/jobs/submit", {"Content-Type": "application/json"}, '{"command":["true"],"urgency":0}']


def slope(volume: Volume, _: int) -> list[Row]:
    """One run: its three slopes, per thousand jobs."""
    memory = Row(
        key="slope",
        work=f"memory for each 1,000 of {_JOBS:,} jobs",
        unit="MB",
        to_reach=("≤", _KB_A_JOB),
        beside="alone",
    )
    files = Row(key="slope", work="descriptors for each 1,000 jobs", unit="files", to_reach=("≤", 0.05), beside="alone")
    lag = Row(key="slope", work="lag for each 1,000 jobs", unit="s", to_reach=("≤", 0.01), beside="alone")
    server = volume.empty.server
    points: list[tuple[int, float, int, float]] = []
    for done in range(_BATCH, _JOBS + 1, _BATCH):
        load(server.url, _CLIENTS, [_SUBMIT] * _BATCH, volume.directory)
        _cancel(server)
        found = scrape(server.http)(_LAG)
        if done >= _WARM_UP:
            points.append((done, rss(server.pid), len(list(Path(f"/proc/{server.pid}/fd").iterdir())), found))
        if done % 5000 == 0:
            say(f"  {done} jobs: {rss(server.pid):.1f} MB")
    for row, column in ((memory, 1), (files, 2), (lag, 3)):
        row.figures.append(1000 * fit([point[0] for point in points], [float(point[column]) for point in points]))
    say(f"  memory {memory.figures[0]:.4f} MB, files {files.figures[0]:.4f}, lag {lag.figures[0]:.4f} s per 1,000 jobs")
    return [memory, files, lag]


def _cancel(server: Server) -> None:
    answer = server.http.post("/v1/jobs/cancel", json={"state": "SCHED"}, timeout=120)
    if answer.status_code not in (200, 207):
        raise MeasurementError(f"jobs were not cancelled: {answer.text}")
    eventually(
        lambda: server.http.get("/v1/service").json()["active_jobs"] == 0, within=120, what="the end of the jobs"
    )


def fit(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return the slope of the line through points, by least squares."""
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
