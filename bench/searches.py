"""Rows ``search`` and ``search-growth``: a text anywhere in a job, both rare texts and common ones.

16 clients that never pause: each sends its next request when it has its response, a higher load than 16
people typing. The growth compares two servers, with all jobs and with a tenth of them, with the same queries in turns.
"""

from __future__ import annotations

import statistics
from typing import Any
from urllib.parse import quote

from bench.processes import say
from bench.programs.submit_many import words
from bench.row import Row, number, percentile
from bench.site import Site, Volume, load

_CLIENTS, _QUERIES = 16, 800
_KINDS = ("rare", "middling", "numbered", "common")
_FEW = 100


def search(volume: Volume, rounds: int) -> list[Row]:
    """The first ten matches, with the count of all matches."""
    slow = Row(
        key="search",
        work=f"search, first 10 matches, {_CLIENTS} clients, p99",
        unit="ms",
        to_reach=("≤", 20.0),
        beside="alone",
    )
    growth = Row(
        key="search-growth",
        work="the same search in 10 times the jobs, slowest kind",
        unit="ms",
        to_reach=("≤", 2.0),
        limit_is="the same with a tenth of the jobs, one client",
    )
    full, small = volume.full, volume.small
    # Texts that the small server has too, so that both get the same queries.
    numbers = [volume.random.randrange(small.jobs) for _ in range(_QUERIES)]
    queries = [(_KINDS[index % len(_KINDS)], number_) for index, number_ in enumerate(numbers)]
    by_kind: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    grown: dict[str, list[tuple[float, float]]] = {kind: [] for kind in _KINDS}
    for _ in range(rounds):
        done = _query(volume, full, _CLIENTS, queries)
        slow.figures.append(percentile([latency for _, latency in done], 0.99))
        for kind in _KINDS:
            by_kind[kind].append(percentile([latency for kind_, latency in done if kind_ == kind], 0.99))
        say(f"  search: p99 {number(slow.figures[-1])} ms")
        # One client: with 16 each kind would wait for the slowest one.
        one, ten = _query(volume, small, 1, queries[:_FEW]), _query(volume, full, 1, queries[:_FEW])
        for kind in _KINDS:
            grown[kind].append((_median(one, kind), _median(ten, kind)))
    slow.note = "p99 of " + _list({kind: statistics.median(by_kind[kind]) for kind in _KINDS}, "ms")
    ratios = {kind: statistics.median(ten / one for one, ten in grown[kind]) for kind in _KINDS}
    worst = max(_KINDS, key=lambda kind: ratios[kind])
    growth.limits, growth.figures = [one for one, _ in grown[worst]], [ten for _, ten in grown[worst]]
    growth.note = (
        f"{_list(ratios, '×')}; alone, median of "
        f"{_list({kind: statistics.median(ten for _, ten in grown[kind]) for kind in _KINDS}, 'ms')}"
    )
    say(f"  search-growth: {_list(ratios, '×')}")
    return [slow, growth]


def _query(volume: Volume, site: Site, clients: int, queries: list[tuple[str, int]]) -> list[tuple[str, float]]:
    """Return each query's kind and latency in ms."""
    requests: list[list[Any]] = [
        ["GET", f"/v1/jobs/search?query={quote(words(number_)[kind])}&length=10&start=0", {}, ""]
        for kind, number_ in queries
    ]
    done = load(site.server.url, clients, requests, volume.directory)
    return [(kind, latency * 1000) for (kind, _), latency in zip(queries, done["latencies"], strict=True)]


def _median(done: list[tuple[str, float]], kind: str) -> float:
    return statistics.median(latency for kind_, latency in done if kind_ == kind)


def _list(figures: dict[str, float], unit: str) -> str:
    return ", ".join(f"{kind} {number(figure)} {unit}" for kind, figure in figures.items())
