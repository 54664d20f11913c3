"""The limit of the first fill: one RPC that requests all jobs from Flux's job-list module. Prints seconds.

The time includes parsing the JSON, as a client needs the jobs.
"""

from __future__ import annotations

import json
import sys
import time

import flux


def main(uri: str, jobs: int) -> None:
    handle = flux.Flux(uri)
    begin = time.perf_counter()
    found = handle.rpc("job-list.list", {"max_entries": 0, "attrs": ["all"]}, 0).get()["jobs"]
    seconds = time.perf_counter() - begin
    if len(found) < jobs:
        raise SystemExit(f"job-list knows {len(found)} of {jobs} jobs")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
