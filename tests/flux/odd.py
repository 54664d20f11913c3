"""Send malformed requests to a broker without the server's checks, as a user's tools can.

Its argument is the instance's URI. Each line of the input is a topic and a payload as JSON; each line of the output is
Flux's response, or its error.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import flux
import flux.job

handle = flux.Flux(sys.argv[1])


def begin(topic: str, payload: str) -> Any:
    if topic == "submit":
        return flux.job.submit_async(handle, payload, urgency=0)
    return handle.rpc(topic, payload)


def end(future: Any) -> Any:
    try:
        return future.get_id() if hasattr(future, "get_id") else future.get()
    except (OSError, ValueError) as exc:
        return {"error": str(exc)}


pending = []
for line in sys.stdin:
    try:
        pending.append(begin(*json.loads(line)))
    except (OSError, ValueError, TypeError) as exc:
        pending.append({"error": str(exc)})
# Each future is dropped after its response: the kernel limits how many reactors may watch one handle (about 500).
pending.reverse()
while pending:
    each = pending.pop()
    print(json.dumps(each if isinstance(each, dict) else end(each)), flush=True)
