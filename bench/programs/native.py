"""The limit of following: one watcher of a job's output eventlog, with Flux's own bindings.

Prints ``following``, and when all lines have come their delays as JSON: seconds from the job's ``time.time()`` in
the line to its arrival here.
"""

from __future__ import annotations

import json
import re
import sys
import time

import flux
import flux.job

from bench.programs.writer import STAMP

_stamps = re.compile(STAMP.decode()).findall


def main(uri: str, job: int, lines: int) -> None:
    handle, delays = flux.Flux(uri), []
    for event in flux.job.event_watch(handle, job, eventlog="guest.output"):
        now = time.time()
        if event.name == "header":
            print("following", flush=True)
        elif event.name == "data":
            delays += [now - float(stamp) for stamp in _stamps(event.context.get("data", ""))]
        if len(delays) == lines:
            break
    if len(delays) != lines:
        raise SystemExit(f"{len(delays)} of {lines} lines have come")
    json.dump(delays, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
