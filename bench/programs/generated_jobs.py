"""A generated history: the journal's responses for the ended jobs of an instance that has run for a long time.

It stands in for Flux, which needs hours to run a million jobs. The jobs are those of a cluster of 64 nodes with three
queues: its users submit arrays of a hundred jobs; one job in eight fails, and one in forty is canceled while it is
pending. The responses come in no order, like Flux's.

Run as a program it takes the place of :mod:`sidecar.history`: it writes frames for the server that has started it.
Arguments: number of jobs, path of the store.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

from bench.programs.submit_many import words
from sidecar import history

_NODES, _CORES = 64, 32
_QUEUES = ("batch", "batch", "batch", "debug", "gpu")
_USERS, _ARRAY = 40, 100  # users; jobs that are submitted at once
_BEGIN, _INTERVAL = 1_780_000_000.0, 40.0  # Unix time of the first array, seconds between two
_CLOCK = 24  # RFC 19: bits of a job ID below the milliseconds
_STRIDE = 7_368_787  # a prime: the order of the responses visits every job once
_JOBSPEC = (
    '{"version":1,"resources":[{"type":"node","count":%d,"with":[{"type":"slot","count":%d,"label":"task","with":'
    '[{"type":"core","count":1}]}]}],"tasks":[{"command":["%s","--seed","%s","--steps","%d"],"slot":"task","count":'
    '{"per_slot":1}}],"attributes":{"system":{"duration":%d,"cwd":"/scratch/%s","queue":"%s","job":{"name":"%s"}}}}'
)
_EVENT = '{"timestamp":%.6f,"name":"%s"%s}'


def submitted(number: int) -> float:
    """Return the time of a job's submit (Unix seconds)."""
    return _BEGIN + number // _ARRAY * _INTERVAL + number % _ARRAY * 0.01


def jobid(number: int) -> int:
    """Return the ID of a job."""
    return int(1000 * (submitted(number) - _BEGIN)) << _CLOCK | number % 16


def responses(jobs: int) -> Iterator[bytes]:
    """Yield the response of each job once."""
    assert jobs % _STRIDE, "the order would repeat one job"
    for index in range(jobs):
        yield response(index * _STRIDE % jobs)


def response(number: int) -> bytes:
    """Return the whole eventlog of a job, with its jobspec and resources, as the journal sends it."""
    source, known = Random(number), words(number)  # noqa: S311 - the same jobs in every run
    nodes, array = 1 << max(0, source.randrange(-12, 6)), number // _ARRAY  # most have one node
    user = 1000 + array % _USERS
    spec = _JOBSPEC % (
        nodes, min(_CORES, 1 << source.randrange(6)), known["common"], known["rare"], 1000 + number % 7,
        3600 * source.randrange(1, 13), known["numbered"], _QUEUES[array % len(_QUEUES)], known["middling"],
    )  # fmt: skip
    first = source.randrange(_NODES - nodes + 1)
    ranks = f"{first}-{first + nodes - 1}" if nodes > 1 else str(first)
    begin = submitted(number)
    events = _eventlog(source, begin, user, ranks)
    resources = (
        f'{{"version":1,"execution":{{"R_lite":[{{"rank":"{ranks}","children":{{"core":"0-{_CORES - 1}"}}}}],'
        f'"nodelist":["node[{ranks}]"],"starttime":{begin:.1f},"expiration":0.0}}}}'
    )
    text = f'{{"id":{jobid(number)},"events":[{",".join(events)}],"jobspec":{spec},"R":{resources}}}'
    return text.encode()


def _eventlog(source: Random, begin: float, user: int, ranks: str) -> list[str]:
    outcome, time, events = source.random(), begin, list[str]()

    def add(delay: float, name: str, context: str = "") -> None:
        nonlocal time
        time += delay
        events.append(_EVENT % (time, name, f',"context":{context}' if context else ""))

    add(0, "submit", f'{{"userid":{user},"urgency":16,"flags":0,"version":1}}')
    add(0.03, "validate")
    add(0.001, "depend")
    add(0.001, "priority", '{"priority":16}')
    if outcome < 0.025:
        add(60, "exception", f'{{"type":"cancel","severity":0,"note":"","userid":{user}}}')
        add(0.001, "clean")
        return events
    add(source.expovariate(1 / 600), "alloc", f'{{"annotations":{{"sched":{{"resource_summary":"rank[{ranks}]/core[0-{_CORES - 1}]"}}}}}}')  # fmt: skip # noqa: E501
    add(0.02, "start")
    add(source.lognormvariate(5, 2), "finish", f'{{"status":{0 if outcome > 0.15 else 256}}}')
    add(0.02, "release", '{"ranks":"all","final":true}')
    add(0.001, "free")
    add(0.001, "clean")
    return events


if __name__ == "__main__":
    history.run(responses(int(sys.argv[1])), Path(sys.argv[2]))
