"""The limit of the first fill: receive the journal with its whole history, and drop it. Prints seconds.

This is a bare consumer with Flux's own bindings, whose reactor calls back for each response.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import flux
import flux.constants


def main(uri: str, jobs: int) -> None:
    handle = flux.Flux(uri)
    received: set[int] = set()
    begin = time.perf_counter()

    def take(rpc: Any) -> None:
        jobid = rpc.get()["id"]
        if jobid == -1:
            handle.reactor_stop()
            return
        received.add(jobid)
        rpc.reset()

    rpc = handle.rpc("job-manager.events-journal", {"full": True}, 0, flux.constants.FLUX_RPC_STREAMING)
    rpc.then(take)
    handle.reactor_run()
    seconds = time.perf_counter() - begin
    if len(received) < jobs:
        raise SystemExit(f"the journal has {len(received)} of {jobs} jobs")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
