"""The limit: the bare loop over ``submit_async``, with a jobspec made once. Prints jobs a second."""

from __future__ import annotations

import json
import os
import sys
import time

import flux
import flux.job


def main(uri: str, jobs: int) -> None:
    handle = flux.Flux(uri)
    jobspec = flux.job.JobspecV1.from_command(["true"])
    jobspec.environment = dict(os.environ)
    text = json.dumps(jobspec.jobspec)
    begin = time.perf_counter()
    futures = [flux.job.submit_async(handle, text, urgency=0) for _ in range(jobs)]
    for future in futures:
        future.get_id()
    print(jobs / (time.perf_counter() - begin))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
