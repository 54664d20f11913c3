"""Whether a job could ever run on the nodes there are: the cheap check in front of Flux's own.

It knows only the plain shapes that the API makes. Where it sees no place for a job, the scheduler has the last word
(``feasibility.check``), so that a stale inventory never refuses a job that would run.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.domain.model import Node
from sidecar.domain.resource_counts import Counts


def shortage(want: Counts, nodes: Sequence[Node]) -> str | None:
    """Say what is missing for ``want`` on ``nodes`` when all of them are idle and up, or None when it fits."""
    if want.nodes > len(nodes):
        return f"The server only has {len(nodes)} nodes, you requested {want.nodes}"
    fitting = [_slots(want, node) for node in nodes]
    slot = f"{want.cores} cores" + (f" and {want.gpus} gpus" if want.gpus else "")
    if want.nodes:
        enough = sum(slots >= want.slots for slots in fitting)
        if enough < want.nodes:
            return f"unsatisfiable request: {want.nodes} nodes with {want.slots} x {slot} each; {enough} are that large"
    elif sum(fitting) < want.slots:
        return f"unsatisfiable request: {want.slots} x {slot}; there is room for {sum(fitting)} on {len(nodes)} nodes"
    return None


def _slots(want: Counts, node: Node) -> int:
    by_cores = node.cores // want.cores if want.cores else want.slots
    return min(by_cores, node.gpus // want.gpus) if want.gpus else by_cores
