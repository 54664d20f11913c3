"""How many nodes, cores and tasks a jobspec asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from sidecar.domain import shell_options as shelloptions
from sidecar.domain import untrusted
from sidecar.domain.jobspec import get, task


class Counts(msgspec.Struct):
    """What a jobspec asks for. ``nodes`` 0: any number; ``slots`` is the number in each node, or in all."""

    nodes: int
    slots: int
    cores: int
    gpus: int
    exclusive: bool
    tasks: int | None

    @property
    def total_slots(self) -> int:
        """Slots over all nodes."""
        return self.slots * max(self.nodes, 1)


def read(jobspec: Mapping[str, Any]) -> Counts | None:
    """Return what a jobspec asks for, or None when it has a shape that only a scheduler can judge.

    Raises:
        ValueError: it has a number in it that no instance can have.
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
    """How many nodes, slots and cores a jobspec of any shape (RFC 14) asks for, as Flux's job-list counts them."""

    nodes: int = 0
    """0: any number."""
    slots: int = 0
    cores: int = 0
    """In each slot."""
    exclusive: bool = False


def listed(jobspec: Mapping[str, Any]) -> Listed:
    """Count as job-list does: of each type the vertex that is read last, and nodes with all that is above them.

    Raises:
        ValueError: job-list counts nothing of it, or no instance has as much.
    """
    found = Listed()
    if not is_whole(jobspec.get("version")):
        raise ValueError("it has no version")
    duration = get(jobspec, "attributes.system.duration")
    if not isinstance(duration, int | float) or isinstance(duration, bool):
        raise ValueError("attributes.system.duration is not a number")
    _look(jobspec.get("resources"), 1, found)
    for what, number in (("slots", found.slots), ("cores", found.cores)):
        if not number:
            raise ValueError(f"it asks for no {what}")
    found.slots *= found.nodes or 1
    return found


def _look(level: Any, above: int, found: Listed) -> None:
    """Count what is on a level and below it, in the order of the text; ``above`` is how often there is that level."""
    if not isinstance(level, list):
        raise ValueError("resources are no list")
    for vertex in level:
        members = vertex if isinstance(vertex, dict) else {}
        kind, count, exclusive = members.get("type"), members.get("count"), members.get("exclusive", False)
        if not isinstance(kind, str) or not is_whole(count) or not isinstance(exclusive, bool):
            raise ValueError(f"a resource has no type, or its count is {untrusted.shown(count)}")
        number = above * count
        if not 0 < number <= untrusted.COUNT:
            raise ValueError(f"no instance has {untrusted.shown(number)} of a resource")
        if kind == "node":
            found.nodes, found.exclusive = number, found.exclusive or exclusive
        elif kind == "slot":
            found.slots = count
        elif kind == "core":
            found.cores = count
        if "with" in members:
            _look(members["with"], number, found)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


class PerResource(msgspec.Struct):
    """The shell option ``per-resource``: so many tasks on each node, or on each core."""

    type: str
    count: int


def per_resource(jobspec: Mapping[str, Any]) -> PerResource | None:
    """Return the shell option ``per-resource``, None without one that the shell would take."""
    found = get(jobspec, "attributes.system.shell.options.per-resource")
    if found is None or shelloptions.wrong_per_resource(found):
        return None
    return PerResource(found["type"], found.get("count", 1))


def _tasks(jobspec: Mapping[str, Any], slots: int, cores: int, nodes: int) -> int | None:
    """The number of tasks; ``None`` until R says how many nodes or cores there are."""
    if per := per_resource(jobspec):
        if per.type == "node":
            return nodes * per.count if nodes else None
        return cores * per.count if not nodes else None
    total = get(task(jobspec), "count.total")
    return total if is_whole(total) and 0 < total <= untrusted.COUNT else slots


def listed_tasks(jobspec: Mapping[str, Any], found: Listed) -> int | None:
    """Return the number of tasks as job-list counts them; ``None`` until R says how many nodes or cores there are.

    Raises:
        ValueError: job-list counts none, and no cores either.
    """
    if per := get(jobspec, "attributes.system.shell.options.per-resource"):
        if not isinstance(per, dict) or not isinstance(per.get("type"), str):
            raise ValueError("per-resource has no type")
        count = per.get("count", 1)
        if not is_whole(count) or not 0 < count <= untrusted.COUNT:
            raise ValueError(f"the count of per-resource is {untrusted.shown(count)}")
        if per["type"] in ("node", "core"):
            return _tasks(jobspec, found.slots, found.slots * found.cores, found.nodes)
    total = get(task(jobspec), "count.total")
    return total if is_whole(total) and 0 <= total <= untrusted.COUNT else found.slots
