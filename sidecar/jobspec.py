"""From a request to a jobspec (RFC 25), and from a jobspec back to the figures that a job list shows.

Both instances take the same jobspec, so that a job means the same on Flux and on the embedded engine.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.errors import InvalidRequest
from sidecar.model import Environment, JobRequest

#: A task with stdin runs under this shell line: Flux's own file input cannot name the job's temporary directory.
STDIN_WRAPPER = ["/bin/sh", "-c", 'exec "$@" <"$FLUX_JOB_TMPDIR/stdin"', "sh"]

_DEPENDENCY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):(.+)")
_INVALID = "Invalid submit request"
_OURS = "flux-sidecar"
_LONGEST_TEXT = 64 * 1024  # characters of a text that Python itself reads, word by word, while everybody waits


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


def parse_command(command: str | list[str]) -> list[str]:
    """Split a command into words as a POSIX shell would, without running one.

    Raises:
        InvalidRequest: nothing to run, or quotes that do not match.
    """
    if isinstance(command, list):
        words = command
    else:
        if len(command) > _LONGEST_TEXT:
            raise InvalidRequest(
                f"command: longer than {_LONGEST_TEXT} characters; send it as a list.", message=_INVALID
            )
        try:
            words = shlex.split(command)
        except ValueError as exc:
            text = f"command: {exc}: {command!r}. Close the quote, or send the command as a list of words."
            raise InvalidRequest(text, message=_INVALID) from None
    if not words or not words[0]:
        raise InvalidRequest("A 'command' is minimally required.")
    return words


def parse_envars(value: dict[str, str] | str | None) -> dict[str, str]:
    """Read ``envars``: an object, its JSON text, or what the PyPI client puts into a query (Python's ``repr``).

    Raises:
        InvalidRequest: not a mapping of names to strings.
    """
    if not value:
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(str(value)) if len(str(value)) <= _LONGEST_TEXT else None
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                value = None
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidRequest('envars: give an object of strings, {"NAME": "value"}.', message=_INVALID)
    for name in value:
        if not name or "=" in name:
            raise InvalidRequest(f"envars: {name!r} is not a variable's name.", message=_INVALID)
    return value


def parse_flags(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """Read ``option_flags``: an object, or ``KEY=VALUE,KEY=VALUE``.

    Raises:
        InvalidRequest: a key with ``-o``, or one without a value.
    """
    if not value:
        return {}
    if isinstance(value, str):
        flags: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in value.split(","))):
            key, equals, text = part.partition("=")
            if not equals:
                raise InvalidRequest(f"option_flags: {part!r} needs a value: KEY=VALUE.", message=_INVALID)
            flags[key] = text
        value = flags
    errors = [f"Please provide keys without -o, {key} is invalid." for key in value if key.startswith("-o")]
    errors += [f"option_flags: {key!r} is not the name of a shell option." for key in value if not _is_path(key)]
    if errors:
        raise InvalidRequest(" ".join(errors), errors=errors, message=_INVALID)
    return {key: _scalar(text) if isinstance(text, str) else text for key, text in value.items()}


def _is_path(key: str) -> bool:
    return all(key.split("."))


def _scalar(text: str) -> Any:
    """Read an option's value as flux-submit(1) does: JSON where it is JSON, else the text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def parse_dependencies(value: list[str] | str | None) -> list[dict[str, str]]:
    """Read dependencies, ``afterok:ƒ…``, as a list or separated by commas.

    Raises:
        InvalidRequest: one is not of the form SCHEME:VALUE.
    """
    found = []
    for text in value.split(",") if isinstance(value, str) else value or []:
        match = _DEPENDENCY.fullmatch(text.strip())
        if not match:
            raise InvalidRequest(f"dependencies: {text!r} is not SCHEME:VALUE, such as afterok:ƒ….", message=_INVALID)
        found.append({"scheme": match[1], "value": match[2]})
    return found


def build(request: JobRequest, environment: Environment, default_flags: Mapping[str, Any]) -> dict[str, Any]:
    """Make the jobspec of a request.

    Args:
        request: what the caller asked for.
        environment: what the job inherits when the request does not say otherwise.
        default_flags: the server's shell options; those of the request win.

    Raises:
        InvalidRequest: the request contradicts itself.
    """
    words = parse_command(request.command)
    options: dict[str, Any] = {}
    # Without this a task that reads its standard input waits for a `flux job attach` that never comes.
    _set_path(options, "input.stdin", {"type": "file", "path": "/dev/null"})
    for key, value in {**default_flags, **parse_flags(request.option_flags)}.items():
        _set_path(options, key, value)
    system: dict[str, Any] = {
        "duration": request.runtime or 0,
        "environment": {**environment.variables, **parse_envars(request.envars)},
        "cwd": request.workdir or environment.cwd,
        "shell": {"options": options},
        "job": {"name": request.name or os.path.basename(words[0]) or words[0]},
    }
    if request.queue:
        system["queue"] = request.queue
    if dependencies := parse_dependencies(request.dependencies):
        system["dependencies"] = dependencies
    if request.stdin is not None:
        system["files"] = {"stdin": {"mode": 0o100600, "encoding": "utf-8", "data": request.stdin}}
        words = [*STDIN_WRAPPER, *words]
    resources, count = _resources(request)
    return {
        "version": 1,
        "resources": [resources],
        "tasks": [{"command": words, "slot": "task", "count": count}],
        "attributes": {"system": system},
    }


def _resources(request: JobRequest) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the resource tree and the task count, in the shapes of flux-submit(1)."""
    nodes = request.num_nodes
    tasks = request.num_tasks or nodes or 1
    if nodes and nodes > tasks:
        raise InvalidRequest(
            f"num_nodes: {nodes} nodes need at least {nodes} tasks; num_tasks is {tasks}.", message=_INVALID
        )
    if request.exclusive and not nodes:
        raise InvalidRequest("exclusive: give num_nodes too; whole nodes are what it asks for.", message=_INVALID)
    children: list[dict[str, Any]] = [{"type": "core", "count": request.cores_per_task or 1}]
    if request.gpus_per_task:
        children.append({"type": "gpu", "count": request.gpus_per_task})
    slot: dict[str, Any] = {"type": "slot", "count": tasks, "label": "task", "with": children}
    if not nodes:
        return slot, {"per_slot": 1}
    slot["count"] = math.ceil(tasks / nodes)
    node: dict[str, Any] = {"type": "node", "count": nodes, "with": [slot]}
    if request.exclusive:
        node["exclusive"] = True
    return node, {"total": tasks} if tasks % nodes else {"per_slot": 1}


def _set_path(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set ``a.b.c`` in nested objects, replacing whatever stands in the way."""
    *parents, last = path.split(".")
    for name in parents:
        child = tree.get(name)
        tree[name] = tree = child if isinstance(child, dict) else {}
    tree[last] = value


def update(jobspec: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Apply the context of a jobspec-update event: dotted paths and their new values (RFC 21)."""
    for path, value in changes.items():
        _set_path(jobspec, path, value)


def get(jobspec: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Return the value at a dotted path, or ``default``."""
    node: Any = jobspec
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return default
        node = node[name]
    return node


def command(jobspec: Mapping[str, Any]) -> list[str]:
    """Return the command as the user gave it, without the line that feeds it its stdin."""
    try:
        words = [str(word) for word in jobspec["tasks"][0]["command"]]
    except (KeyError, IndexError, TypeError):
        return []
    return words[len(STDIN_WRAPPER) :] if words[: len(STDIN_WRAPPER)] == STDIN_WRAPPER else words


def mark(jobspec: dict[str, Any], **ours: str) -> None:
    """Write what is ours of a job (``submitter``, ``key``, ``request``) where Flux's journal keeps it for us."""
    jobspec["attributes"].setdefault("user", {}).setdefault(_OURS, {}).update(ours)


def submitter(jobspec: Mapping[str, Any]) -> str:
    """Return who has submitted a job by way of this server; empty when nobody has."""
    found = get(jobspec, f"attributes.user.{_OURS}")
    name = found.get("submitter") if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def scoped(key: str, submitter: str) -> str:
    """Return an idempotency key as one caller's: another one's of the same text is another key."""
    return f"{submitter}\n{key}" if submitter else key


def key(jobspec: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the idempotency key, scoped to its submitter, and digest that a jobspec carries; None without one."""
    found = get(jobspec, f"attributes.user.{_OURS}")
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        return None
    return scoped(found["key"], submitter(jobspec)), str(found.get("request", ""))


def without_environment(jobspec: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a jobspec as Flux's journal shows it: nobody gets to see a job's environment in a list."""
    attributes = jobspec["attributes"]
    system = {name: value for name, value in attributes["system"].items() if name not in ("environment", "files")}
    return {**jobspec, "attributes": {**attributes, "system": system}}


def counts(jobspec: Mapping[str, Any]) -> Counts | None:
    """Return what a jobspec asks for, or None when it has a shape that only a scheduler can judge."""
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
    except (KeyError, TypeError, ValueError):
        return None
    if not all(isinstance(number, int) for number in (nodes, slots, cores, gpus)):
        return None
    return Counts(nodes, slots, cores, gpus, exclusive, _tasks(jobspec, slots * max(nodes, 1), slots * cores, nodes))


def _tasks(jobspec: Mapping[str, Any], slots: int, cores: int, nodes: int) -> int | None:
    """The number of tasks; ``None`` until R says how many nodes or cores there are."""
    per_resource = get(jobspec, "attributes.system.shell.options.per-resource") or {}
    if isinstance(per_resource, dict) and (kind := per_resource.get("type")):
        each = per_resource.get("count", 1)
        if kind == "node":
            return nodes * each if nodes else None
        return cores * each if not nodes else None
    total = get(jobspec["tasks"][0], "count.total")
    return total if isinstance(total, int) else slots
