"""Check whether the nodes of the instance could ever run a job, before Flux checks it.

The check covers only the jobspecs that the API makes. A job that does not pass it is still checked by the scheduler
(``feasibility.check``), so that a stale list of nodes never rejects a job that would run.
"""

from __future__ import annotations

from collections.abc import Sequence

from sidecar.domain.model import Node
from sidecar.domain.resource_counts import Counts


def shortage(want: Counts, nodes: Sequence[Node]) -> str | None:
    """Return what is missing for a job if all nodes are idle and up, or None if it could run."""
    if want.nodes > len(nodes):
        return f"The server only has {len(nodes)} nodes, you requested {want.nodes}"
    slots = [_slots(want, node) for node in nodes]
    slot = f"{want.cores} cores" + (f" and {want.gpus} gpus" if want.gpus else "")
    if want.nodes:
        enough = sum(number >= want.slots for number in slots)
        if enough < want.nodes:
            return f"unsatisfiable request: {want.nodes} nodes with {want.slots} x {slot} each; {enough} are that large"
    elif sum(slots) < want.slots:
        return f"unsatisfiable request: {want.slots} x {slot}; there is room for {sum(slots)} on {len(nodes)} nodes"
    return None


def _slots(want: Counts, node: Node) -> int:
    """Return the number of slots of a job that fit on a node."""
    by_cores = node.cores // want.cores if want.cores else want.slots
    return min(by_cores, node.gpus // want.gpus) if want.gpus else by_cores
