"""Jobspecs (RFC 25): made from a request, and read for the details of a job.

Both instances get the same jobspec, so that a job means the same on Flux and on the embedded engine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.domain import json_size, shell_options
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.job_request import JobRequest
from sidecar.domain.model import Environment
from sidecar.domain.parameters import parse_command, parse_dependencies, parse_envars

#: Runs a task with stdin: Flux's own file input cannot name the job's temporary directory.
STDIN_WRAPPER = ["/bin/sh", "-c", 'exec "$@" <"$FLUX_JOB_TMPDIR/stdin"', "sh"]

_INVALID = "Invalid submit request"
_CHECKED = ("queue", "cwd", "duration")  # of attributes.system; the rest may be large
_PER_RESOURCE = "shell.options.per-resource"


class Prepared(msgspec.Struct, frozen=True):
    """A jobspec that is ready to be submitted, as JSON: objects would need many times as much memory."""

    data: bytes
    """JSON of the jobspec."""
    outline: dict[str, Any]
    """The parts that are needed to check whether the instance can run the job, without those that may be large."""

    @property
    def weight(self) -> int:
        """Approximate memory in bytes; of the decoded jobspec, if that is much more than its JSON."""
        members = json_size.count(self.data)
        return json_size.weight(self.data, members if members > json_size.MOST else 0)

    def decoded(self) -> dict[str, Any]:
        """Return the jobspec."""
        return msgspec.json.decode(self.data, type=dict[str, Any])


def prepared(jobspec: Mapping[str, Any]) -> Prepared:
    """Return a jobspec that is ready to be submitted.

    Its outline, which checks see, has only the members that they need: a check of another one must add it here.
    """
    (first,), system = jobspec["tasks"], jobspec["attributes"]["system"]
    kept = {name: system[name] for name in _CHECKED if name in system}
    per_resource = get(system, _PER_RESOURCE)
    outline = {
        "resources": jobspec["resources"],
        "tasks": [{"count": first["count"]}],
        "attributes": {"system": kept},
    }
    if system.get("dependencies"):
        kept["dependencies"] = system["dependencies"][:1]
    if per_resource is not None:
        _set_path(kept, _PER_RESOURCE, per_resource)
    return Prepared(msgspec.json.encode(jobspec), outline)


def build(
    request: JobRequest, environment: Environment, default_flags: Mapping[str, Any], *, bank: str = ""
) -> dict[str, Any]:
    """Return the jobspec of a request.

    Args:
        request: parameters of the client.
        environment: inherited by the job, unless the request overrides it.
        default_flags: shell options of the server; those of the request take precedence.
        bank: for accounting; empty: none.

    Raises:
        InvalidRequest: parameters are not valid, or contradict each other.
    """
    words = parse_command(request.command)
    options: dict[str, Any] = {}
    # Otherwise a task that reads its standard input would wait for a `flux job attach`.
    _set_path(options, "input.stdin", {"type": "file", "path": "/dev/null"})
    for key, value in {**default_flags, **shell_options.parse(request.option_flags)}.items():
        _set_path(options, key, value)
    shell_options.check(options)
    system: dict[str, Any] = {
        "duration": request.runtime or 0,
        "environment": {**environment.variables, **parse_envars(request.envars)},
        "cwd": request.workdir or environment.cwd,
        "shell": {"options": options},
        "job": {"name": request.name or os.path.basename(words[0]) or words[0]},
    }
    if request.queue:
        system["queue"] = request.queue
    if bank:
        system["bank"] = bank
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
        raise InvalidRequest("exclusive: give num_nodes too; it allocates whole nodes.", message=_INVALID)
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
    """Set ``a.b.c`` in nested objects; parents that are not objects are replaced."""
    *parents, last = path.split(".")
    for name in parents:
        child = tree.get(name)
        tree[name] = tree = child if isinstance(child, dict) else {}
    tree[last] = value


def update(jobspec: dict[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Apply the context of a jobspec-update event: dotted paths and their new values (RFC 21).

    Returns:
        The paths that were ignored because they have more parts than those of any jobspec.
    """
    ignored = []
    for path, value in changes.items():
        if path.count(".") < shell_options.LONGEST_PATH:
            _set_path(jobspec, path, value)
        else:
            ignored.append(path)
    return ignored


def get(jobspec: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Return the value at a dotted path, or ``default``."""
    node: Any = jobspec
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return default
        node = node[name]
    return node


def command(jobspec: Mapping[str, Any]) -> list[str]:
    """Return the user's command, without :data:`STDIN_WRAPPER`; empty if there is no valid one."""
    words = task(jobspec).get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    return words[len(STDIN_WRAPPER) :] if words[: len(STDIN_WRAPPER)] == STDIN_WRAPPER else words


def task(jobspec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the only entry of ``tasks``, as Flux requires; empty if it is not valid."""
    tasks = jobspec.get("tasks")
    return tasks[0] if isinstance(tasks, list) and tasks and isinstance(tasks[0], dict) else {}


def without_environment(jobspec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a jobspec as in Flux's journal: without the environment and files, which may contain secrets."""
    attributes = jobspec["attributes"]
    system = {name: value for name, value in attributes["system"].items() if name not in ("environment", "files")}
    return {**jobspec, "attributes": {**attributes, "system": system}}
