"""Rows ``million``: the whole server with ten times the jobs of the other rows, a million of them by default.

Flux needs hours to run that many, so the journal's responses come from :mod:`bench.programs.generated_jobs`: everything
behind them is what runs beside Flux, in the same processes. Each read is sent by one client, with different values, and
the slowest kind counts. The kinds are the sorts that the server accepts for so many jobs (others are 400), all filters,
and texts that few, many or no jobs contain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlencode

from bench.processes import MeasurementError, Memory, Probe, rss, say
from bench.programs.generated_jobs import jobid, submitted
from bench.programs.submit_many import words
from bench.row import Row, number, percentile
from bench.site import Volume, load, logged
from sidecar.store.schema import size_of
from tests.support.harness import Server, eventually

_TIMES, _REQUESTS = 10, 40
_PROBED = ("/livez", "/v1/jobs?limit=100")
_SORTED = ("id", "t_submit", "state", "result", "name", "username")
_FILTERS = (
    "state=RUN", "state=INACTIVE", "result=FAILED", "result=TIMEOUT", "user=1007", "user=absent", "queue=gpu",
    "queue=absent", "name=boranis", "name=absent", "submitter=absent", "state=INACTIVE&result=FAILED&queue=debug",
)  # fmt: skip


def million(volume: Volume, _: int) -> list[Row]:
    """One fill; its rate, memory and size, then the reads."""
    jobs = _TIMES * volume.jobs

    def row(key: str, work: str, unit: str, *to_reach: object) -> Row:
        return Row(key=key, work=work, unit=unit, to_reach=to_reach, beside="alone")  # type: ignore[arg-type]

    rate = row("million", f"fill with {jobs:,} generated jobs", "jobs/s", "≥", 5000.0)
    memory = row("million-memory", "memory of all its processes meanwhile", "MB", "≤", 250.0)
    size = row("million-store", "store, after the fill", "bytes a job", "≤", 1500.0)
    reads = row("million-reads", "p99 of the slowest kind of read", "ms", "≤", 200.0)
    server, store = volume.generated("million", jobs, 0, "--keep-jobs", "0")
    with ExitStack() as stack:
        watched = stack.enter_context(Memory(server.pid, children=True))
        probes = [stack.enter_context(Probe(server.url, path)) for path in _PROBED]
        eventually(lambda: "history is read" in server.text(), within=120 + jobs / 500, what="the whole history")
    rate.figures.append(jobs / (logged(server, "history is read") - logged(server, "active jobs are read")))
    p99 = (
        f"{path} {number(1000 * percentile(probe.latencies, 0.99))} ms"
        for path, probe in zip(_PROBED, probes, strict=True)
    )
    rate.note = f"p99 of answers meanwhile: {', '.join(p99)}"
    memory.figures.append(watched.most)
    memory.note = f"afterwards {number(rss(server.pid))} MB"
    size.figures.append(size_of(store) / jobs)
    say(f"  million: {', '.join(f'{number(each.figures[0])} {each.unit}' for each in (rate, memory, size))}")
    if server.http.get("/v1/jobs/search?length=0").json()["recordsTotal"] != jobs:
        raise MeasurementError("the store does not have all jobs")
    slowest = {kind: _p99(volume, server, paths) for kind, paths in _kinds(volume, jobs)}
    reads.figures.append(max(slowest.values()))
    order = sorted(slowest, key=lambda kind: -slowest[kind])
    reads.note = "; ".join(f"{kind} {number(slowest[kind])} ms" for kind in order)
    say(f"  million-reads: {reads.note}")
    volume.discard(server)
    return [rate, memory, size, reads]


def _kinds(volume: Volume, jobs: int) -> Iterator[tuple[str, list[str]]]:
    """Yield each kind of read, with the paths of its requests."""
    some = [volume.random.randrange(jobs) for _ in range(_REQUESTS)]
    for column in _SORTED:
        order = urlencode({"columns[0][data]": column, "order[0][column]": 0, "length": 25})
        ways = (f"order[0][dir]={('asc', 'desc')[turn % 2]}&start={25 * turn}" for turn in range(_REQUESTS))
        yield f"sort by {column}", [f"/v1/jobs/search?{order}&{way}" for way in ways]
    for kind in ("rare", "middling", "numbered", "common"):
        yield f"search for a {kind} text", [f"/v1/jobs/search?query={words(each)[kind]}&length=10" for each in some]
    yield "search for two characters", [f"/v1/jobs/search?query={each % 90 + 10}&length=10" for each in some]
    yield "search for an absent text", [f"/v1/jobs/search?query=absent-{each}&length=10" for each in some]
    for text in _FILTERS:
        yield text, [f"/v1/jobs?{text}&limit={100 + turn}" for turn in range(_REQUESTS)]
    for bound in ("since", "until"):
        yield bound, [f"/v1/jobs?{bound}={submitted(each):.3f}&limit=100" for each in some]
    yield "page", [f"/v1/jobs?limit=100&cursor={jobid(each)}" for each in some]
    yield "page with details", [f"/v1/jobs?limit=100&details=true&cursor={jobid(each)}" for each in some]
    yield "job", [f"/v1/jobs/{jobid(each)}" for each in some]


def _p99(volume: Volume, server: Server, paths: list[str]) -> float:
    """Return the latency in ms; of so few requests it is that of the slowest one."""
    done = load(server.url, 1, [["GET", path, {}, ""] for path in paths], volume.directory)
    return 1000 * percentile(done["latencies"], 0.99)
