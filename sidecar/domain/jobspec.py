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

from sidecar.domain import json_size as members
from sidecar.domain import shell_options as shelloptions
from sidecar.domain import untrusted
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import Environment, JobRequest

#: A task with stdin runs under this shell line: Flux's own file input cannot name the job's temporary directory.
STDIN_WRAPPER = ["/bin/sh", "-c", 'exec "$@" <"$FLUX_JOB_TMPDIR/stdin"', "sh"]

_DEPENDENCY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):(.+)")
_INVALID = "Invalid submit request"
_OURS = "flux-sidecar"
_JUDGED = ("queue", "cwd", "duration")  # of attributes.system; what else is, may be large
_PER_RESOURCE = "shell.options.per-resource"
LONGEST_KEY = 1024
"""Characters of an idempotency key, and of the name of the caller whose it is."""
_LONGEST_TEXT = 64 * 1024  # characters of a text that Python itself reads, word by word, while everybody waits


class Prepared(msgspec.Struct, frozen=True):
    """A jobspec that is ready to be submitted. A job that waits is kept so: objects take many times as much memory."""

    data: bytes
    """Its JSON."""
    outline: dict[str, Any]
    """What is needed to judge whether the instance can run it: all but what may be large."""

    @property
    def weight(self) -> int:
        """How many bytes it takes, about; also as objects, where these may be much more than its JSON."""
        found = members.count(self.data)
        return members.weight(self.data, found if found > members.MOST else 0)

    def decoded(self) -> dict[str, Any]:
        """Return the jobspec."""
        return msgspec.json.decode(self.data, type=dict[str, Any])


def prepared(jobspec: Mapping[str, Any]) -> Prepared:
    """Make a jobspec ready to be submitted."""
    (first,), system = jobspec["tasks"], jobspec["attributes"]["system"]
    kept = {name: system[name] for name in _JUDGED if name in system}
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


#: A word that a shell takes for an operator, or that begins with one for a redirection.
_OPERATOR = re.compile(r"(?<!\S)(?:\|\|?|&&?|;|\d?>>?(?:&\d)?|<<?)(?!\S)")


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


def without_shell(command: str | list[str]) -> str:
    """Return a warning for a command whose words a shell would act on, and that is run without one; else nothing.

    Args:
        command: one that :func:`parse_command` has split without an error; a list is meant word by word.
    """
    if isinstance(command, list) or not _OPERATOR.search(command):
        return ""
    words = shlex.split(command)
    found = next((word for word in words[1:] if _OPERATOR.fullmatch(word)), None)
    if found is None:  # it is inside quotes
        return ""
    return f"command: {found!r} is passed to {words[0]} as an argument: no shell runs the command. Use sh -c '...'."


def parse_envars(value: dict[str, str] | str | None) -> dict[str, str]:
    """Read ``envars``: an object, its JSON text, or what the PyPI client puts into a query (Python's ``repr``).

    Raises:
        InvalidRequest: not a mapping of names to strings.
    """
    if not value:
        return {}
    members.check("envars", _members(value), _INVALID)
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
        if fault := untrusted.unusable(name) or untrusted.unusable(value[name]):  # it may have been text in a text
            raise InvalidRequest(f"envars: {untrusted.shown(name)}: {fault}.", message=_INVALID)
    return value


def _members(value: dict[str, str] | str) -> int:
    return members.count(value.encode(errors="replace")) if isinstance(value, str) else len(value)


def parse_dependencies(value: list[str] | str | None) -> list[dict[str, str]]:
    """Read dependencies, ``afterok:ƒ…``, as a list or separated by commas.

    Raises:
        InvalidRequest: one is not of the form SCHEME:VALUE.
    """
    members.check("dependencies", value.count(",") if isinstance(value, str) else len(value or ()), _INVALID)
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
    for key, value in {**default_flags, **shelloptions.parse(request.option_flags)}.items():
        _set_path(options, key, value)
    shelloptions.check(options)
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


def update(jobspec: dict[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """Apply the context of a jobspec-update event: dotted paths and their new values (RFC 21).

    Returns:
        The paths that were passed over, because they have more parts than any jobspec.
    """
    refused = []
    for path, value in changes.items():
        if path.count(".") < shelloptions.LONGEST_PATH:
            _set_path(jobspec, path, value)
        else:
            refused.append(path)
    return refused


def get(jobspec: Mapping[str, Any], path: str, default: Any = None) -> Any:
    """Return the value at a dotted path, or ``default``."""
    node: Any = jobspec
    for name in path.split("."):
        if not isinstance(node, dict) or name not in node:
            return default
        node = node[name]
    return node


def command(jobspec: Mapping[str, Any]) -> list[str]:
    """Return the command as the user gave it, without the line that feeds it its stdin; empty where there is none."""
    words = task(jobspec).get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    return words[len(STDIN_WRAPPER) :] if words[: len(STDIN_WRAPPER)] == STDIN_WRAPPER else words


def task(jobspec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a jobspec says of its tasks, of which Flux takes one description; empty without it."""
    tasks = jobspec.get("tasks")
    return tasks[0] if isinstance(tasks, list) and tasks and isinstance(tasks[0], dict) else {}


def mark(jobspec: dict[str, Any], **ours: str) -> dict[str, Any]:
    """Write what is ours of a job (``submitter``, ``key``, ``request``) where Flux's journal keeps it for us."""
    jobspec["attributes"].setdefault("user", {}).setdefault(_OURS, {}).update(ours)
    return jobspec


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
    if not isinstance(found, dict):
        return None
    key, digest, whose = found.get("key"), found.get("request"), submitter(jobspec)
    if not isinstance(key, str) or not isinstance(digest, str) or max(map(len, (key, digest, whose))) > LONGEST_KEY:
        return None  # not one of ours
    return scoped(key, whose), digest


def without_environment(jobspec: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a jobspec as Flux's journal shows it: nobody gets to see a job's environment in a list."""
    attributes = jobspec["attributes"]
    system = {name: value for name, value in attributes["system"].items() if name not in ("environment", "files")}
    return {**jobspec, "attributes": {**attributes, "system": system}}
