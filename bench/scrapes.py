"""Row ``scrape``: a scrape by Prometheus, of a server without jobs and of one with all jobs."""

from __future__ import annotations

import statistics
import time

from bench.processes import MeasurementError, say
from bench.row import Row, number, percentile
from bench.site import Site, Volume

_SCRAPES = 40  # of each server in a round, in turns


def scrape(volume: Volume, rounds: int) -> list[Row]:
    """The limit is the same server without a job: the cost of a scrape must not depend on the number of jobs."""
    growth = Row(
        key="scrape",
        work="GET /metrics, all jobs in the store",
        unit="ms",
        to_reach=("≤", 1.2),
        limit_is="the same without jobs",
    )
    slowest = Row(key="scrape-time", work="the same, by itself", unit="ms", to_reach=("≤", 10.0), beside="alone")
    for _ in range(rounds):
        without: list[float] = []
        full: list[float] = []
        for _ in range(_SCRAPES):
            without.append(_scrape(volume.empty))
            full.append(_scrape(volume.full))
        growth.limits.append(statistics.median(without))
        growth.figures.append(statistics.median(full))
        slowest.figures.append(statistics.median(full))
        say(f"  scrape: without jobs {number(growth.limits[-1])} ms, with {number(growth.figures[-1])} ms")
    slowest.note = f"p99 of the last round {number(percentile(full, 0.99))} ms"
    return [growth, slowest]


def _scrape(site: Site) -> float:
    """Return the duration of a scrape (milliseconds)."""
    begin = time.perf_counter()
    answer = site.server.http.get("/metrics")
    took = 1000 * (time.perf_counter() - begin)
    if answer.status_code != 200 or "flux_jobs{" not in answer.text:
        raise MeasurementError(f"/metrics answers {answer.status_code}")
    return took
