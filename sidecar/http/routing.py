"""Serve operations: read their parameters, call their handlers, and encode their results."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler as RequestHandler
from aiohttp.typedefs import Middleware
from yarl import URL

from sidecar.http import decoding, negotiation, path_variables, responses
from sidecar.http.body_decoding import read_body
from sidecar.http.operations import OPERATIONS, Operation
from sidecar.http.whole import WholeResponse

_JSON = {"Content-Type": "application/json"}
_MAX_CACHED = 256  # characters of a query string; the struct of a longer one is not cached
_running: set[asyncio.Future[web.StreamResponse]] = set()  # the event loop references tasks only weakly

COMMAND = web.RequestKey("command", asyncio.Future[web.StreamResponse])
"""The task that carries out a command, also after its caller has disconnected."""


class NoParameters(msgspec.Struct, forbid_unknown_fields=True):
    """A body without parameters."""


class _NoQuery(msgspec.Struct, frozen=True):
    """The query of an operation without parameters."""


class Router:
    """The routes of an application, each within the middlewares.

    aiohttp's own way to call middlewares costs a request a seventh of a bare one, however few they are; here they are
    put around a handler once. So that they are around errors of the router too, requests without a route have one.

    Args:
        app: the application; it has no middlewares of its own.
        middlewares: outermost first.
    """

    def __init__(self, app: web.Application, middlewares: Sequence[Middleware]) -> None:
        self._app = app
        self._middlewares = middlewares
        app[OPERATIONS] = {}

    def add_operation(self, op: Operation) -> None:
        """Serve an operation, and register it in :data:`~sidecar.http.operations.OPERATIONS`."""
        handler = self._wrapped(_reader(op) if op.method == "GET" else _command(_reader(op)))
        self._app[OPERATIONS][handler] = op
        resource = self._app.router.add_resource(path_variables.router_path(op.path), name=op.name)
        resource.add_route(op.method, handler)
        if op.method == "GET":
            resource.add_route("HEAD", handler)

    def add_get(self, path: str, handler: RequestHandler) -> None:
        """Serve something that is no operation."""
        self._app.router.add_get(path, self._wrapped(handler))

    def close(self) -> None:
        """Add the route of all other requests, after all others."""
        self._app.router.add_route("*", "/{path:.*}", self._wrapped(self._unmatched))

    def _wrapped(self, handler: RequestHandler) -> RequestHandler:
        for middleware in reversed(self._middlewares):
            handler = functools.partial(middleware, handler=handler)
        return handler

    async def _unmatched(self, request: web.Request) -> web.StreamResponse:
        """Raise the error of a request without a route.

        Raises:
            web.HTTPMethodNotAllowed: the path has routes for other methods.
            web.HTTPNotFound: the path has no routes.
        """
        allowed: set[str] = set()
        for resource in list(self._app.router.resources())[:-1]:
            allowed |= (await resource.resolve(request))[1]
        raise web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound()


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response; ``value`` may be encoded bytes."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    body += b"\n"  # so that a terminal's prompt starts on a new line
    return WholeResponse(body=body, status=status, headers={**_JSON, **headers} if headers else _JSON)


def _reader(op: Operation) -> RequestHandler:
    """Return an aiohttp handler that reads the parameters of a request and calls the operation's handler."""
    assert op.handler is not None  # noqa: S101 - operations() binds it
    handler, offered, varies = op.handler, op.negotiated, _varies(op)
    variables = list(path_variables.of_path(op.path).items())

    async def handle(request: web.Request) -> web.StreamResponse:
        arguments: dict[str, Any] = {}
        if offered:
            negotiation.choose(request, offered)
        if varies:
            responses.vary(request, varies)
        for name, variable in variables:
            arguments[variable.argument] = variable.read(request.match_info[name])
        if op.body is not None:
            held, arguments["body"] = await read_body(request, op)
            with held:
                result = await handler(request, **arguments)
                return result if isinstance(result, web.StreamResponse) else json_response(result)
        if op.query is not None or request.rel_url.raw_query_string:
            query = _read_query(request, op)
            if op.query is not None:
                arguments["query"] = query
        result = await handler(request, **arguments)
        return result if isinstance(result, web.StreamResponse) else json_response(result)

    return handle


def _varies(op: Operation) -> str:
    """Return the headers of a request that select a representation of its answer."""
    return ", ".join([*(["Accept"] if len(op.negotiated) > 1 else []), *(["Accept-Encoding"] if op.compress else [])])


def _command(handle: RequestHandler) -> RequestHandler:
    """Return a handler that runs commands to their end, also if the caller disconnects."""

    async def run(request: web.Request) -> web.StreamResponse:
        task = request[COMMAND] = asyncio.ensure_future(handle(request))
        _running.add(task)
        task.add_done_callback(_running.discard)
        try:
            response = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # no caller is left to receive it
            raise
        except BaseException:
            del request[COMMAND]  # its traceback would keep the body for as long as the connection stays open
            raise
        del request[COMMAND]
        return response

    return run


def _read_query(request: web.Request, op: Operation) -> msgspec.Struct:
    text = request.rel_url.raw_query_string
    decode = _decode_query_cached if len(text) <= _MAX_CACHED else _decode_query
    return decode(op.query or _NoQuery, text, op.message, op.loose)


def _decode_query(cls: type[msgspec.Struct], text: str, message: str, loose: bool) -> msgspec.Struct:
    if not text:
        return cls()
    pairs = URL.build(query_string=text, encoded=True).query
    values = dict(pairs) if loose else decoding.unique_values(pairs)
    return decoding.decode(cls, values, text=frozenset(values), message=message, loose=loose)


_decode_query_cached = functools.lru_cache(maxsize=1024)(_decode_query)  # clients poll with the same queries
