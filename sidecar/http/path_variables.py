"""The variables of paths: how a handler receives each one, and how the OpenAPI document describes it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from sidecar.domain import fluid, untrusted
from sidecar.domain.errors import InvalidRequest, NotFound

#: Last segments of other routes, which are not jobids.
_RESERVED = "search|submit|bulk|cancel"
_VARIABLE = re.compile(r"{(\w+)}")


class PathVariable(msgspec.Struct, frozen=True):
    """One variable."""

    argument: str
    """Name of the handler's argument."""
    read: Callable[[str], Any]
    """Convert the text; raises :class:`~sidecar.domain.errors.Problem` for a wrong one."""
    parameter: dict[str, Any]
    """Members of the OpenAPI parameter."""
    pattern: str = ""
    """Regular expression for aiohttp's router; empty: any text without a slash."""


def of_path(path: str) -> dict[str, PathVariable]:
    """Return the variables of a path by name, in order."""
    return {name: _VARIABLES[name] for name in _VARIABLE.findall(path)}


def router_path(path: str) -> str:
    """Return a path with the patterns of its variables, for aiohttp's router."""
    return _VARIABLE.sub(lambda match: _with_pattern(match[1]), path)


def _with_pattern(name: str) -> str:
    pattern = _VARIABLES[name].pattern
    return f"{{{name}:{pattern}}}" if pattern else f"{{{name}}}"


def parse_jobid(text: str) -> int:
    """Return the job ID that a text spells, in any of Flux's spellings.

    Raises:
        InvalidRequest: the text is not a job ID.
    """
    try:
        return fluid.parse(text)
    except ValueError as exc:
        raise InvalidRequest(f"{exc}.") from None


def _rest_jobid(text: str) -> int:
    """Return the job ID that a text spells, with the error of flux-rest-server."""
    try:
        return fluid.parse(text)
    except ValueError:
        raise InvalidRequest(f"{untrusted.shown(text)} is not a valid Flux jobid") from None


def _launcher(text: str) -> int:
    if (number := untrusted.digits(text)) is None:
        raise NotFound(f"There is no launcher {text!r}; GET /v1/launchers lists them.")
    return number


_JOBID: dict[str, Any] = {
    "description": "Job id in any of Flux's spellings: decimal, ƒ… or f…, 0x…, dothex, KVS, words, emoji",
    "schema": {"type": "string"},
    "example": "f2oUvBnNfh",
}
_VARIABLES = {
    "uid": PathVariable(
        "jobid",
        parse_jobid,
        _JOBID,
        pattern=f"(?!(?:{_RESERVED})$)[^{{}}/]+",
    ),
    "id": PathVariable("jobid", _rest_jobid, _JOBID, pattern="[^/]+"),
    "name": PathVariable(
        "name", str, {"description": "Name of the queue; or of the node, or its rank", "schema": {"type": "string"}}
    ),
    "number": PathVariable(
        "number", _launcher, {"description": "Number of the launcher", "schema": {"type": "integer", "minimum": 0}}
    ),
}
