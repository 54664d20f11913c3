"""Decodes the nodes of Flux's resource responses (R of RFC 20, and resource.status)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, NamedTuple

import flux.hostlist

from sidecar.domain import idset, untrusted
from sidecar.domain.members import Faults, Members
from sidecar.domain.model import Node

_LONGEST, _LONGEST_REASON = 64 * 1024, 1024  # bytes
_LAST_RANK = 2**20


class Inventory(NamedTuple):
    """The nodes that Flux reports."""

    nodes: list[Node]
    """In the order of their ranks."""
    lost: frozenset[int]
    """Ranks that the scheduler no longer has: it starts no job there."""


def decode(sched_status: Mapping[str, Any], status: Mapping[str, Any]) -> Inventory:
    """Return every node of the instance except those that its configuration excludes.

    Without configured resources the scheduler forgets a node when its broker is lost; the resource module does not.

    Args:
        sched_status: the response of ``resource.sched-status``: R of all, down and allocated resources.
        status: the response of ``resource.status``: R with every rank, the ranks that are offline, and those that are
            drained, with the reason.
    """
    faults = Faults()
    members = Members(status, "resource.status", faults)
    scheduled = _by_rank(sched_status.get("all"), faults)
    allocated = _by_rank(sched_status.get("allocated"), faults)
    known = _by_rank(members.values.get("R"), faults)
    last = max([*scheduled, *known], default=-1)
    offline = set(idset.upto(members.text("offline", _LONGEST), last))
    excluded = set(idset.upto(members.text("exclude", _LONGEST), last))
    lost = frozenset(known.keys() - scheduled.keys() - excluded)
    drained = _drained(members, last, faults)
    names = _names(members.values.get("R"), known, faults) | _names(sched_status.get("all"), scheduled, faults)
    nodes = []
    for rank in sorted(scheduled.keys() | lost):
        up = rank not in offline and rank not in lost
        node = _node(rank, names.get(rank, str(rank)), scheduled.get(rank) or known[rank], allocated.get(rank, (0, 0)))
        node.up, node.reason = up, drained.get(rank, "")
        node.state = "down" if not up else "drained" if rank in drained else node.state
        nodes.append(node)
    return Inventory(nodes, lost)


def _node(rank: int, name: str, size: tuple[int, int], used: tuple[int, int]) -> Node:
    """Return a node that is up, with its cores and gpus, and those that are allocated."""
    return Node(
        name=name,
        rank=rank,
        state="allocated" if any(used) else "free",
        up=True,
        cores=size[0],
        cores_allocated=used[0],
        gpus=size[1],
        gpus_allocated=used[1],
    )


def _drained(status: Members, last: int, faults: Faults) -> dict[int, str]:
    """Return the reasons of the drained ranks up to ``last``."""
    return {
        rank: Members(drain, "drain", faults).text("reason", _LONGEST_REASON)
        for ranks, drain in status.inner("drain").values.items()
        for rank in idset.upto(ranks, last)
    }


def _execution(resources: Any, faults: Faults) -> Members:
    return Members(resources or {}, "R", faults).inner("execution")


def _by_rank(resources: Any, faults: Faults) -> dict[int, tuple[int, int]]:
    """Return the number of cores and gpus of each rank in an R."""
    sizes: dict[int, tuple[int, int]] = {}
    for each in _execution(resources, faults).items("R_lite"):
        entry = Members(each, "R_lite", faults)
        children = entry.inner("children")
        cores, gpus = (idset.size(children.read(kind, "an idset", idset.ranges_of, [])) for kind in ("core", "gpu"))
        for rank in idset.upto(idset.write(entry.read("rank", "an idset", idset.ranges_of, [])), _LAST_RANK):
            sizes[rank] = cores, gpus
    return sizes


def _names(resources: Any, ranks: Collection[int], faults: Faults) -> dict[int, str]:
    """Return the hostnames in an R by rank; no more than there are ranks: a short hostlist can name millions."""
    hosts = [host for host in _execution(resources, faults).items("nodelist") if isinstance(host, str)]
    try:
        names = [
            untrusted.text(str(name), _LONGEST) for name in islice(flux.hostlist.decode(",".join(hosts)), len(ranks))
        ]
    except (OSError, ValueError):  # malformed: the rank is the name of each node
        return {}
    return dict(zip(sorted(ranks), names, strict=False))
