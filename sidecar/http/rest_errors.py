"""Errors of flux-rest-server's dialect, below ``/api/v1``: ``{"error": …}``, whatever has raised them.

A request that is not HTTP is the exception: it is answered before its path is known.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from sidecar.domain.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    NotSent,
    Problem,
    ResponseTimeout,
    TooLarge,
    Unavailable,
)
from sidecar.domain.untrusted import excerpt
from sidecar.http import problems
from sidecar.http.operations import NO_OPERATION, OPERATION

CONTENT_TYPE = "application/json"
FLUX_UNAVAILABLE = "flux unavailable"

_ROOT = "/api/v1"
_LONGEST_PATH = 1000  # characters
#: What the dialect calls some errors; others are called by their detail.
_ERRORS: dict[type[Problem], str] = {
    Problem: "internal error",
    Forbidden: "forbidden",
    TooLarge: "request body too large",
    Unavailable: FLUX_UNAVAILABLE,
    NotSent: FLUX_UNAVAILABLE,
    ResponseTimeout: FLUX_UNAVAILABLE,
}


class RestError(msgspec.Struct, omit_defaults=True):
    """The body of an error response below /api/v1."""

    error: Annotated[str, Meta(description="the error; of an invalid job also its cause")]
    detail: Annotated[str | UnsetType, Meta(description="cause of the error, and what to do about it")] = UNSET
    path: Annotated[str | UnsetType, Meta(description="path of a request without a route")] = UNSET


def is_rest_path(path: str) -> bool:
    """Whether a path belongs to the dialect."""
    return path == _ROOT or path.startswith(f"{_ROOT}/")


def render(request: web.BaseRequest, problem: Problem) -> web.Response:
    """Return the response of an error in the form of the request's path: below /api/v1 a RestError."""
    if not is_rest_path(request.path):
        return problems.render(problem)
    return web.Response(
        body=msgspec.json.encode(_body(request, problem)) + b"\n",
        status=InvalidRequest.status if isinstance(problem, TooLarge) else problem.status,
        content_type=CONTENT_TYPE,
        headers=problem.headers,
    )


def no_route() -> NotFound:
    """Return the error of a request without a route: also where the path has routes for other methods."""
    return NotFound("not found")


def _body(request: web.BaseRequest, problem: Problem) -> RestError:
    op = request.get(OPERATION, NO_OPERATION)
    if isinstance(problem, NotFound) and op is NO_OPERATION:
        return RestError(problem.detail, path=excerpt(request.rel_url.raw_path, _LONGEST_PATH))
    if problem.message == op.message:
        return RestError(f"{op.message[:1].lower()}{op.message[1:]}: {problem.detail}")
    error = _ERRORS.get(type(problem), problem.message)
    return RestError(error) if error == problem.detail else RestError(error, problem.detail)
