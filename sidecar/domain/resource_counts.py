"""The number of nodes, cores and tasks that a jobspec requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from sidecar.domain import shell_options, untrusted
from sidecar.domain.jobspec import get, task


class Counts(msgspec.Struct):
    """The resources that a jobspec requests."""

    nodes: int
    """0: any number."""
    slots: int
    """On each node, or in total if ``nodes`` is 0."""
    cores: int
    """In each slot."""
    gpus: int
    """In each slot."""
    exclusive: bool
    tasks: int | None
    """None if it depends on R."""

    @property
    def total_slots(self) -> int:
        """Slots on all nodes."""
        return self.slots * max(self.nodes, 1)


def read(jobspec: Mapping[str, Any]) -> Counts | None:
    """Return the resources that a jobspec requests, or None if only a scheduler can interpret it.

    Raises:
        ValueError: it contains a number that no instance can have.
    """
    nodes, slots, cores, gpus, exclusive = 0, 0, 0, 0, False
    try:
        (resource,) = jobspec["resources"]
        if resource["type"] == "node":
            nodes, exclusive = resource["count"], bool(resource.get("exclusive"))
            (resource,) = resource["with"]
        if resource["type"] != "slot":
            return None
        slots = resource["count"]
        for child in resource["with"]:
            if child["type"] == "core":
                cores = child["count"]
            elif child["type"] == "gpu":
                gpus = child["count"]
            else:
                return None
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    numbers = (nodes, slots, cores, gpus)
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
        return None
    if not all(0 <= number <= untrusted.COUNT for number in numbers):
        raise ValueError(f"no instance has {max(numbers, key=abs)} of anything")
    return Counts(nodes, slots, cores, gpus, exclusive, _tasks(jobspec, slots * max(nodes, 1), slots * cores, nodes))


class Listed(msgspec.Struct):
    """The resources of a jobspec of any shape (RFC 14), as Flux's job-list module counts them."""

    nodes: int = 0
    """0: any number."""
    slots: int = 0
    cores: int = 0
    """In each slot."""
    exclusive: bool = False


def listed(jobspec: Mapping[str, Any]) -> Listed:
    """Count as job-list does: the last vertex of each type, and nodes multiplied by all vertices above them.

    Raises:
        ValueError: job-list cannot count it, or no instance can have as many.
    """
    counts = Listed()
    if not is_whole(jobspec.get("version")):
        raise ValueError("it has no version")
    duration = get(jobspec, "attributes.system.duration")
    if not isinstance(duration, int | float) or isinstance(duration, bool):
        raise ValueError("attributes.system.duration is not a number")
    _count(jobspec.get("resources"), 1, counts)
    for kind, number in (("slots", counts.slots), ("cores", counts.cores)):
        if not number:
            raise ValueError(f"it requests no {kind}")
    counts.slots *= counts.nodes or 1
    return counts


def _count(level: Any, above: int, counts: Listed) -> None:
    """Count the vertices of a level and below it, in the order of the text.

    Args:
        level: a list of vertices.
        above: product of the counts of the vertices above.
        counts: gets the result.
    """
    if not isinstance(level, list):
        raise ValueError("resources are not a list")
    for vertex in level:
        members = vertex if isinstance(vertex, dict) else {}
        kind, count, exclusive = members.get("type"), members.get("count"), members.get("exclusive", False)
        if not isinstance(kind, str) or not is_whole(count) or not isinstance(exclusive, bool):
            raise ValueError(f"a resource has no type, or its count is {untrusted.shown(count)}")
        number = above * count
        if not 0 < number <= untrusted.COUNT:
            raise ValueError(f"no instance has {untrusted.shown(number)} of a resource")
        if kind == "node":
            counts.nodes, counts.exclusive = number, counts.exclusive or exclusive
        elif kind == "slot":
            counts.slots = count
        elif kind == "core":
            counts.cores = count
        if "with" in members:
            _count(members["with"], number, counts)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a JSON value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


class PerResource(msgspec.Struct):
    """The shell option ``per-resource``: a number of tasks on each node or core."""

    type: str
    count: int


def per_resource(jobspec: Mapping[str, Any]) -> PerResource | None:
    """Return the shell option ``per-resource``; None if there is no valid one."""
    option = get(jobspec, "attributes.system.shell.options.per-resource")
    if option is None or shell_options.wrong_per_resource(option):
        return None
    return PerResource(option["type"], option.get("count", 1))


def _tasks(jobspec: Mapping[str, Any], slots: int, cores: int, nodes: int) -> int | None:
    """Return the number of tasks; None if it depends on the nodes or cores in R."""
    if per := per_resource(jobspec):
        if per.type == "node":
            return nodes * per.count if nodes else None
        return cores * per.count if not nodes else None
    total = get(task(jobspec), "count.total")
    return total if is_whole(total) and 0 < total <= untrusted.COUNT else slots


def listed_tasks(jobspec: Mapping[str, Any], counts: Listed) -> int | None:
    """Return the number of tasks as job-list counts them; None if it depends on the nodes or cores in R.

    Raises:
        ValueError: job-list counts neither tasks nor cores.
    """
    if per := get(jobspec, "attributes.system.shell.options.per-resource"):
        if not isinstance(per, dict) or not isinstance(per.get("type"), str):
            raise ValueError("per-resource has no type")
        count = per.get("count", 1)
        if not is_whole(count) or not 0 < count <= untrusted.COUNT:
            raise ValueError(f"the count of per-resource is {untrusted.shown(count)}")
        if per["type"] in ("node", "core"):
            return _tasks(jobspec, counts.slots, counts.slots * counts.cores, counts.nodes)
    total = get(task(jobspec), "count.total")
    return total if is_whole(total) and 0 <= total <= untrusted.COUNT else counts.slots
