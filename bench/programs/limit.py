"""The limit of submits: Flux's own bindings, with one prepared jobspec and no other work.

``rate``: jobs are sent and the responses processed as they arrive, on the reactor; Python with Flux cannot be faster.
So many jobs wait for their response at a time as the measured clients have requests in flight, or all of them.
``latency``: one job after the other, each waited for.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from typing import Any

import flux
import flux.job


def rate(handle: flux.Flux, jobspec: str, jobs: int, in_flight: int) -> float:
    """Return jobs a second."""
    ids: list[int] = []
    left = jobs

    def submit() -> None:
        nonlocal left
        left -= 1
        flux.job.submit_async(handle, jobspec, urgency=0).then(accepted)

    def accepted(future: Any) -> None:
        ids.append(future.get_id())
        if left:
            submit()

    begin = time.perf_counter()
    for _ in range(min(jobs, in_flight)):
        submit()
    handle.reactor_run()
    seconds = time.perf_counter() - begin
    if len(set(ids)) != jobs:
        raise SystemExit(f"{len(set(ids))} of {jobs} jobs were accepted")
    return jobs / seconds


def latency(handle: flux.Flux, jobspec: str, jobs: int, _: int) -> float:
    """Return the median duration of one submit, in milliseconds."""
    times = []
    for _ in range(jobs):
        begin = time.perf_counter()
        flux.job.submit_async(handle, jobspec, urgency=0).get_id()
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1000


def main(what: str, uri: str, jobs: int, in_flight: int) -> None:
    jobspec = flux.job.JobspecV1.from_command(["true"])
    jobspec.environment = dict(os.environ)
    measure = {"rate": rate, "latency": latency}[what]
    print(json.dumps(measure(flux.Flux(uri), json.dumps(jobspec.jobspec), jobs, in_flight)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
