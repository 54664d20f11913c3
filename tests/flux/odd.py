"""Hands odd things to a broker past every check of the server's own, as a user's tools can: a topic and a text a line.

It is started with the instance's URI; it answers with one line for each command: what Flux has answered, or its error.
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
# Each future is dropped with its answer: the kernel bounds how many reactors may watch one handle (about 500).
pending.reverse()
while pending:
    each = pending.pop()
    print(json.dumps(each if isinstance(each, dict) else end(each)), flush=True)
