"""Routes as data: one description of each operation serves requests and generates the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec
from aiohttp import web

from sidecar.config.access import Scope

Handler = Callable[..., Awaitable[Any]]

_MARK = "_operation"
_API = "/v1/"
_INVALID = "Invalid request"


class Answer(msgspec.Struct, frozen=True):
    """One kind of response: the type of its JSON body (None: not JSON, see ``media``), and when it is sent."""

    description: str
    type: Any = None
    media: tuple[str, ...] = ("application/json",)
    status: int = 200


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path."""

    method: str
    path: str
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    lines: type[msgspec.Struct] | None = None
    """Type of each line of an NDJSON body, which the handler reads itself."""
    whole_body: str = ""
    """Field of the body that a JSON body is as a whole, if the query has the parameters; see :mod:`body_decoding`."""
    headers: dict[str, str] = {}
    """Request headers that the operation reads, with their descriptions."""
    scope: Scope | None = "read"
    """Scope that the caller needs; None: no credential is required."""
    stream: bool = False
    """The response continues until its reader leaves or its subject ends."""
    use: bool = True
    """A request counts as use of the instance and postpones an idle stop; of a stream only its start counts."""
    quiet: bool = False
    """Polled by machines: a successful request is not logged."""
    port: Literal["api", "metrics", "both"] = "api"
    """Which port serves the operation where --metrics-port is set; without it the API's port serves all."""
    page: bool = False
    """For people: not a part of the API and its document."""
    compress: bool = False
    """A large answer may be compressed; see :mod:`sidecar.http.compression` for where it must not."""
    json_only: bool = False
    """The body is a JSON object whatever its Content-Type, and no parameter is in the query."""
    loose: bool = False
    """Ignore unknown query parameters."""
    answers: tuple[Answer, ...]
    errors: tuple[int, ...] = ()
    message: str = _INVALID
    name: str = ""
    summary: str = ""
    description: str = ""
    handler: Handler | None = None

    @property
    def negotiated(self) -> tuple[str, ...]:
        """The media types of which Accept selects one; 406 if none is acceptable. Empty: Accept is ignored.

        Only reads of the API are refused: a command is carried out whatever the type of its response, and the clients
        of probes and metrics send arbitrary Accept headers.
        """
        if self.method != "GET" or self.quiet or not is_api_path(self.path):
            return ()
        return next((answer.media for answer in self.answers if answer.status == 200), ())


NO_OPERATION = Operation(method="", path="", answers=())
"""The operation of a request for a static file or an unknown path."""

OPERATIONS = web.AppKey("operations", dict[Any, Operation])
"""The operations of an application by aiohttp's handlers."""
OPERATION = web.RequestKey("operation", Operation)
"""The operation of a request."""


def find_operation(request: web.Request) -> Operation:
    """Return the operation of a request; :data:`NO_OPERATION` for a static file or an unknown path."""
    return request.app[OPERATIONS].get(request.match_info.handler, NO_OPERATION)


def is_api_path(path: str) -> bool:
    """Whether a path belongs to the API; errors of the API are never rendered as pages."""
    return path.startswith(_API)


def operation(method: str, path: str, **details: Any) -> Callable[[Handler], Handler]:
    """Mark a method of a resource class as the handler of a route; its docstring describes the route.

    Args:
        method: HTTP method.
        path: with variables of :mod:`sidecar.http.path_variables` in braces.
        details: fields of :class:`Operation`.

    Raises:
        TypeError: a body would ignore a mistyped parameter, a query is mutable, or a command names no scope.
    """
    body, query = details.get("body"), details.get("query")
    if body is not None and not body.__struct_config__.forbid_unknown_fields:
        raise TypeError(f"{body.__name__} would ignore mistyped parameters; set forbid_unknown_fields")
    if query is not None and not query.__struct_config__.frozen:
        raise TypeError(f"{query.__name__} is cached and shared by requests; set frozen")
    if method != "GET" and "scope" not in details:
        raise TypeError(f"{method} {path} may change state; name the scope that it needs")

    def mark(handler: Handler) -> Handler:
        summary, _, description = (handler.__doc__ or "").strip().partition("\n")
        marked = Operation(
            method=method, path=path, summary=summary.rstrip("."), description=" ".join(description.split()), **details
        )
        setattr(handler, _MARK, marked)
        return handler

    return mark


class Resource(Protocol):
    """A class with handlers as marked methods; its tag groups them and prefixes their names."""

    tag: str


def operations(resource: Resource) -> list[Operation]:
    """Return the operations of a resource with their handlers bound to it."""
    bound = []
    for name in vars(type(resource)):
        marked: Operation | None = getattr(getattr(type(resource), name), _MARK, None)
        if marked:
            handler = getattr(resource, name)
            bound.append(msgspec.structs.replace(marked, handler=handler, name=f"{resource.tag}_{name}"))
    return bound
