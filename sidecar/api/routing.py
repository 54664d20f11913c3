"""Routes as data: what a handler takes and answers is written once, for the server and for the OpenAPI document."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec
from aiohttp import web
from multidict import MultiMapping
from yarl import URL

from sidecar import fluid
from sidecar.access import Scope
from sidecar.api import fields
from sidecar.errors import InvalidRequest, NotFound, RequestTimeout, UnsupportedMediaType

Handler = Callable[..., Awaitable[Any]]

_JSON = {"Content-Type": "application/json"}
_MARK = "_operation"
_commands: set[asyncio.Future[web.StreamResponse]] = set()  # the loop itself holds them only weakly
_INVALID = "Invalid request"
_UID = "{uid:(?!search$|submit$|bulk$|cancel$)[^{}/]+}"  # what is a route of its own is no job id


OPERATIONS = web.AppKey("operations", dict[Any, "Operation"])
"""The operations of an application, by the handlers that aiohttp knows."""
COMMAND = web.RequestKey("command", asyncio.Future[web.StreamResponse])
"""What carries the command out, also when the caller has gone."""

BODY_TIMEOUT = web.AppKey("body_timeout", float)
"""How long the body of a request may take (seconds)."""


class Answer(msgspec.Struct, frozen=True):
    """One kind of answer: a type for its JSON body (None: not JSON, see ``media``), and when it comes."""

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
    """What each line of an NDJSON body is; the handler reads it by itself."""
    headers: dict[str, str] = {}
    """Request headers that mean something here, and what."""
    scope: Scope | None = "read"
    """What a caller needs; None: nothing, and nobody is asked who they are."""
    stream: bool = False
    """The answer goes on until somebody ends it."""
    page: bool = False
    """For people: no part of the API and its document."""
    loose: bool = False
    """Unknown query parameters are let through."""
    answers: tuple[Answer, ...]
    errors: tuple[int, ...] = ()
    message: str = _INVALID
    name: str = ""
    summary: str = ""
    description: str = ""
    handler: Handler | None = None


def operation(method: str, path: str, **details: Any) -> Callable[[Handler], Handler]:
    """Mark a method of a resource class as the handler of a route; its docstring describes the route."""
    body = details.get("body")
    if body is not None and not body.__struct_config__.forbid_unknown_fields:
        raise TypeError(f"{body.__name__} would let a mistyped parameter pass: forbid_unknown_fields")

    if method != "GET" and "scope" not in details:
        raise TypeError(f"{method} {path} changes something: name the scope that it needs")

    def mark(handler: Handler) -> Handler:
        summary, _, description = (handler.__doc__ or "").strip().partition("\n")
        setattr(
            handler,
            _MARK,
            Operation(
                method=method,
                path=path,
                summary=summary.rstrip("."),
                description=" ".join(description.split()),
                **details,
            ),
        )
        return handler

    return mark


class Resource(Protocol):
    """A class whose methods are handlers; its tag groups them, and begins their names."""

    tag: str


def operations(resource: Resource) -> list[Operation]:
    """Return the routes of a resource, their handlers bound to it."""
    found = []
    for name in vars(type(resource)):
        marked: Operation | None = getattr(getattr(type(resource), name), _MARK, None)
        if marked:
            found.append(
                msgspec.structs.replace(marked, handler=getattr(resource, name), name=f"{resource.tag}_{name}")
            )
    return found


def add(app: web.Application, op: Operation) -> None:
    """Serve an operation; :data:`OPERATIONS` tells then which one a request is for."""
    assert op.handler is not None  # noqa: S101 - operations() binds it
    handler = op.handler
    readers = [(name, _PATH[name]) for name in re.findall(r"{(\w+)}", op.path)]

    async def handle(request: web.Request) -> web.StreamResponse:
        arguments: dict[str, Any] = {}
        for name, (argument, read) in readers:
            arguments[argument] = read(request.match_info[name])
        if op.body is not None:
            arguments["body"] = await _in_time(request, _read_body(request, op))
        elif op.query is not None or request.query_string:
            query = _read_query(request, op)
            if op.query is not None:
                arguments["query"] = query
        result = await handler(request, **arguments)
        return result if isinstance(result, web.StreamResponse) else json_response(result)

    async def finish(request: web.Request) -> web.StreamResponse:
        """Carry out a command to its end: what it has begun is not given up half-way because the caller has gone."""
        task = request[COMMAND] = asyncio.ensure_future(handle(request))
        _commands.add(task)
        task.add_done_callback(_commands.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody is left to be told
            raise

    path = op.path.replace("{uid}", _UID)
    chosen = handle if op.method == "GET" else finish
    app[OPERATIONS][chosen] = op
    app.router.add_route(op.method, path, chosen, name=op.name)
    if op.method == "GET":
        app.router.add_route("HEAD", path, handle)


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with JSON; ``value`` may be ready-made bytes."""
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    body += b"\n"  # a terminal's prompt begins on a line of its own
    return web.Response(body=body, status=status, headers={**_JSON, **headers} if headers else _JSON)


class NoParameters(msgspec.Struct, forbid_unknown_fields=True):
    """A body without parameters."""


class _Nothing(msgspec.Struct):
    """The query of a route that takes none."""


def _job_id(text: str) -> int:
    try:
        return fluid.parse(text)
    except ValueError as exc:
        raise InvalidRequest(f"{exc}.") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise NotFound(f"There is no launcher {text!r}; GET /v1/launchers lists them.")
    return int(text)


#: What a handler is given for each variable of a path.
_PATH: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("job", _job_id),
    "number": ("number", _number),
    "name": ("name", str),
}


def _read_query(request: web.Request, op: Operation) -> Any:
    text = request.rel_url.raw_query_string
    return _query(op.query or _Nothing, text, op.message, op.loose)


@functools.lru_cache(maxsize=1024)
def _query(cls: type[msgspec.Struct], text: str, message: str, loose: bool) -> msgspec.Struct:
    """Read a query string; who asks for the same again and again is not read again each time."""
    if not text:
        return cls()
    pairs = URL.build(query_string=text, encoded=True).query
    values = dict(pairs) if loose else fields.single(pairs)
    return fields.decode(cls, values, text=frozenset(values), message=message, loose=loose)


async def _in_time(request: web.Request, reading: Coroutine[Any, Any, Any]) -> Any:
    """Read a body, from who does not send it too slowly."""
    seconds = request.app[BODY_TIMEOUT]
    try:
        async with asyncio.timeout(seconds):
            return await reading
    except TimeoutError:
        raise RequestTimeout(f"The body did not come within {seconds:g} s (--body-timeout).") from None


async def _read_body(request: web.Request, op: Operation) -> Any:
    """Read a JSON body, a form and the query string into one struct: the same names in all three."""
    assert op.body is not None  # noqa: S101 - only called for operations that have one
    if request.content_type == "application/json" and not request.query_string:
        found = fields.decode_json(op.body, await request.read())
        if found is not None:
            return found
    query = fields.single(request.query)
    sent, text = await _sent(request)
    if both := sorted(query.keys() & sent.keys()):
        errors = [f"{name}: given in the query and in the body." for name in both]
        raise InvalidRequest(" ".join(errors), errors=errors, message=op.message)
    names = frozenset(query) | (frozenset(sent) if text else frozenset())
    return fields.decode(op.body, {**query, **sent}, text=names, message=op.message, form=True)


async def _sent(request: web.Request) -> tuple[dict[str, Any], bool]:
    """Return the body's values, and whether they are text."""
    kind = request.content_type
    if kind == "multipart/form-data":
        return await _form(request), True
    raw = await request.read()
    if not raw.strip():
        return {}, False
    # `curl -d '{…}'` says that it sends a form: what it means is plain.
    if kind == "application/json" or raw.lstrip().startswith(b"{"):
        return json_object(raw), False
    if kind == "application/x-www-form-urlencoded":
        return await _form(request), True
    raise UnsupportedMediaType(f"A body of type {kind} is not read here; send application/json or a form.")


async def _form(request: web.Request) -> dict[str, Any]:
    return fields.single(await read_form(request))


async def read_form(request: web.Request) -> MultiMapping[str]:
    """Read a form; a name may be there many times.

    Raises:
        InvalidRequest: it is none, or has files in it.
        RequestTimeout: it comes too slowly.
    """
    try:
        form = await _in_time(request, request.post())
    except (ValueError, KeyError, AssertionError) as exc:  # all of what aiohttp raises for a malformed one
        raise InvalidRequest(f"The form cannot be read: {exc}.") from None
    if not all(isinstance(value, str) for value in form.values()):
        raise InvalidRequest("A form's fields are text here, not files.")
    found: MultiMapping[str] = form
    return found


def json_object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidRequest(f"The body is not JSON: {exc}.") from None
    except RecursionError:
        raise InvalidRequest("The body's JSON is nested too deeply.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {type(value).__name__}.")
    return value
