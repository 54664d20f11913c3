"""A bare reader of the journal: it receives each event, and drops it. Prints ``reading`` when it is live.

With it a broker has the work that any follower of its journal causes, and the server's own work is what remains.
"""

from __future__ import annotations

import sys
from typing import Any

import flux
import flux.constants


def main(uri: str) -> None:
    handle = flux.Flux(uri)

    def take(rpc: Any) -> None:
        if rpc.get()["id"] == -1:
            print("reading", flush=True)
        rpc.reset()

    rpc = handle.rpc("job-manager.events-journal", {"full": False}, 0, flux.constants.FLUX_RPC_STREAMING)
    rpc.then(take)
    handle.reactor_run()


if __name__ == "__main__":
    main(sys.argv[1])
