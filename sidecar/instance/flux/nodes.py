"""Nodes from Flux's resource answers (R of RFC 20, and resource.status)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, NamedTuple

import flux.hostlist

from sidecar.domain import idset, untrusted
from sidecar.domain.model import Node
from sidecar.domain.untrusted import Faults, Members

_LONGEST, _LONGEST_REASON = 64 * 1024, 1024
_LAST_RANK = 2**20


class Inventory(NamedTuple):
    """What Flux tells of its nodes."""

    nodes: list[Node]
    """In the order of ranks."""
    lost: frozenset[int]
    """Ranks that the scheduler no longer has: no job will run there."""


def nodes(sched_status: Mapping[str, Any], status: Mapping[str, Any]) -> Inventory:
    """Return every node of the instance, but for those that its configuration excludes.

    Without configured resources the scheduler forgets a node whose broker is lost; the resource module does not.

    Args:
        sched_status: the answer of ``resource.sched-status``: R of all, down and allocated resources.
        status: the answer of ``resource.status``: R with every rank, the ranks that are offline, and those that are
            drained, with the reason.
    """
    faults = Faults()
    scheduled = _by_rank(sched_status.get("all"), faults)
    allocated = _by_rank(sched_status.get("allocated"), faults)
    members = Members(status, "resource.status", faults)
    known = _by_rank(members.values.get("R"), faults)
    last = max([*scheduled, *known], default=-1)
    offline = set(idset.upto(members.text("offline", _LONGEST), last))
    excluded = set(idset.upto(members.text("exclude", _LONGEST), last))
    lost = frozenset(known.keys() - scheduled.keys() - excluded)
    drained = {
        rank: Members(drain, "drain", faults).text("reason", _LONGEST_REASON)
        for ranks, drain in members.inner("drain").values.items()
        for rank in idset.upto(ranks, last)
    }
    names = _names(members.values.get("R"), known, faults) | _names(sched_status.get("all"), scheduled, faults)
    found = []
    for rank in sorted(scheduled.keys() | lost):
        cores, gpus = scheduled.get(rank) or known[rank]
        cores_used, gpus_used = allocated.get(rank, (0, 0))
        busy = "allocated" if cores_used or gpus_used else "free"
        up = rank not in offline and rank not in lost
        state = "drained" if up and rank in drained else busy if up else "down"
        found.append(
            Node(
                name=names.get(rank, str(rank)),
                rank=rank,
                state=state,  # type: ignore[arg-type]  # one of the literals by construction
                up=up,
                cores=cores,
                cores_allocated=cores_used,
                gpus=gpus,
                gpus_allocated=gpus_used,
                reason=drained.get(rank, ""),
            )
        )
    return Inventory(found, lost)


def _execution(resources: Any, faults: Faults) -> Members:
    return Members(resources or {}, "R", faults).inner("execution")


def _by_rank(resources: Any, faults: Faults) -> dict[int, tuple[int, int]]:
    """Cores and gpus of each rank in an R."""
    found: dict[int, tuple[int, int]] = {}
    for each in _execution(resources, faults).items("R_lite"):
        entry = Members(each, "R_lite", faults)
        children = entry.inner("children")
        cores, gpus = (idset.size(children.read(kind, "an idset", idset.ranges_of, [])) for kind in ("core", "gpu"))
        for rank in idset.upto(idset.write(entry.read("rank", "an idset", idset.ranges_of, [])), _LAST_RANK):
            found[rank] = cores, gpus
    return found


def _names(resources: Any, ranks: Collection[int], faults: Faults) -> dict[int, str]:
    """Return the names of the nodes of an R by rank; a hostlist of ten characters can name millions."""
    hosts = [host for host in _execution(resources, faults).items("nodelist") if isinstance(host, str)]
    try:
        names = [
            untrusted.text(str(name), _LONGEST) for name in islice(flux.hostlist.decode(",".join(hosts)), len(ranks))
        ]
    except (OSError, ValueError):  # each node is called by its rank then
        return {}
    return dict(zip(sorted(ranks), names, strict=False))
