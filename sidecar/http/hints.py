"""Suggest what was probably meant by an unknown path or parameter."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable

_MAX_COMPARED = 100  # characters; the search takes time in proportion to them
_SIMILARITY = 0.7
#: Paths of other servers.
_PATHS = {
    "/healthz": "/livez or /readyz",
    "/health": "/livez or /readyz",
    "/healthcheck": "/livez or /readyz",
    "/ping": "/livez",
    "/live": "/livez",
    "/ready": "/readyz",
    "/status": "/v1/service",
    "/version": "/v1/service",
    "/v1": "/openapi.json",
    "/v1/version": "/v1/service",
    "/swagger": "/docs",
    "/redoc": "/docs",
    "/swagger.json": "/openapi.json",
    "/openapi.yaml": "/openapi.json",
    "/v1/openapi.json": "/openapi.json",
    "/v1/metrics": "/metrics",
}
#: Names in other tools and on command lines: flux-submit(1), sbatch(1), kubectl.
_PARAMETERS = {
    "args": "command",
    "argv": "command",
    "cmd": "command",
    "cwd": "workdir",
    "chdir": "workdir",
    "directory": "workdir",
    "working_directory": "workdir",
    "env": "envars",
    "environment": "envars",
    "variables": "envars",
    "duration": "runtime",
    "time": "runtime",
    "time_limit": "runtime",
    "timelimit": "runtime",
    "timeout": "runtime",
    "walltime": "runtime",
    "n": "num_tasks",
    "ntasks": "num_tasks",
    "tasks": "num_tasks",
    "nodes": "num_nodes",
    "nnodes": "num_nodes",
    "cores": "cores_per_task",
    "cpus_per_task": "cores_per_task",
    "gpus": "gpus_per_task",
    "input": "stdin",
    "job_name": "name",
    "partition": "queue",
    "priority": "urgency",
    "nice": "urgency",
    "dependency": "dependencies",
    "depends": "dependencies",
    "options": "option_flags",
    "shell_options": "option_flags",
    "setopt": "option_flags",
    "status": "state",
    "states": "state",
    "username": "user",
    "owner": "user",
    "count": "limit",
    "max_entries": "limit",
    "page_size": "limit",
    "per_page": "limit",
    "page": "cursor",
    "offset": "cursor",
    "q": "query",
    "search": "query",
    "lines": "tail",
    "sig": "signal",
    "message": "reason",
    "note": "reason",
}
_SORTING = frozenset({"sort", "order", "sort_by"})


def parameter(name: str, known: Collection[str]) -> str:
    """Return advice for an unknown parameter: the one that was probably meant, or the known ones."""
    lower = name.lower().replace("-", "_") if len(name) <= _MAX_COMPARED else ""
    if lower in known:
        return f"did you mean {lower}?"
    if _PARAMETERS.get(lower) in known:
        return f"did you mean {_PARAMETERS[lower]}?"
    if lower in _SORTING and "cursor" in known:
        return "lists are newest first; GET /v1/jobs/search sorts, by order[0][column] and order[0][dir]."
    if close := difflib.get_close_matches(lower, known, n=1, cutoff=_SIMILARITY):
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(known) or 'none'}."


def is_close(name: str, known: Collection[str]) -> bool:
    """Return whether an unknown parameter is probably a mistyped one."""
    return "did you mean" in parameter(name, known)


def path(asked: str, templates: Iterable[str]) -> str:
    """Return the path that was probably meant by an unknown one; empty if none is close.

    Args:
        asked: the path.
        templates: of all routes, such as ``/v1/jobs/{uid}``.
    """
    if len(asked) > _MAX_COMPARED:
        return ""
    plain = re.sub("/+", "/", asked).rstrip("/").lower() or "/"
    if plain in _PATHS:
        return _PATHS[plain]
    templates = list(templates)
    for candidate in (re.sub("/+", "/", asked).rstrip("/") or "/", plain):
        if candidate != asked and any(_pattern(template).fullmatch(candidate) for template in templates):
            return candidate
    close = difflib.get_close_matches(plain, templates, n=1, cutoff=_SIMILARITY)
    return close[0] if close else ""


def _pattern(template: str) -> re.Pattern[str]:
    return re.compile("[^/]+".join(map(re.escape, re.split(r"{\w+}", template))))
