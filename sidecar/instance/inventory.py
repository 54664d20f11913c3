"""Nodes from Flux's resource answers (R of RFC 20, and resource.status)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flux.hostlist

from sidecar import idset
from sidecar.model import Node


def nodes(sched_status: Mapping[str, Any], status: Mapping[str, Any]) -> list[Node]:
    """Return every node of the instance, in the order of ranks.

    Args:
        sched_status: the answer of ``resource.sched-status``: R of all, down and allocated resources.
        status: the answer of ``resource.status``: who is drained and why.
    """
    total = _by_rank(sched_status.get("all"))
    allocated = _by_rank(sched_status.get("allocated"))
    offline = set(idset.parse(status.get("offline", "")))
    drained = {
        rank: str(drain.get("reason", ""))
        for ranks, drain in status.get("drain", {}).items()
        for rank in idset.parse(ranks)
    }
    names = dict(zip(sorted(total), _names(sched_status.get("all")), strict=False))
    found = []
    for rank in sorted(total):
        cores, gpus = total[rank]
        cores_used, gpus_used = allocated.get(rank, (0, 0))
        busy = "allocated" if cores_used or gpus_used else "free"
        state = "down" if rank in offline else "drained" if rank in drained else busy
        found.append(
            Node(
                name=names.get(rank, str(rank)),
                rank=rank,
                state=state,  # type: ignore[arg-type]  # one of the literals by construction
                up=rank not in offline,
                cores=cores,
                cores_allocated=cores_used,
                gpus=gpus,
                gpus_allocated=gpus_used,
                reason=drained.get(rank, ""),
            )
        )
    return found


def _execution(resources: Any) -> Mapping[str, Any]:
    execution = (resources or {}).get("execution", {})
    return execution if isinstance(execution, Mapping) else {}


def _by_rank(resources: Any) -> dict[int, tuple[int, int]]:
    """Cores and gpus of each rank in an R."""
    found: dict[int, tuple[int, int]] = {}
    for entry in _execution(resources).get("R_lite", []):
        children = entry.get("children", {})
        size = len(idset.parse(children.get("core", ""))), len(idset.parse(children.get("gpu", "")))
        for rank in idset.parse(entry["rank"]):
            found[rank] = size
    return found


def _names(resources: Any) -> list[str]:
    return [str(name) for name in flux.hostlist.decode(",".join(_execution(resources).get("nodelist", [])))]
