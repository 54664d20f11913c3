"""Routes as data: what a handler takes and answers is written once, for the server and for the OpenAPI document."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Protocol

import msgspec
from aiohttp import web
from multidict import MultiMapping
from yarl import URL

from sidecar.config.access import Scope
from sidecar.domain import fluid, untrusted
from sidecar.domain import json_size as members
from sidecar.domain.errors import InvalidRequest, NotFound, Problem, UnsupportedMediaType, without_traceback
from sidecar.http import decoding as fields
from sidecar.http import faults, forms, negotiation
from sidecar.http import responses as begun
from sidecar.http.body import BODIES, counted
from sidecar.runtime.budget import Holding

Handler = Callable[..., Awaitable[Any]]

_JSON = {"Content-Type": "application/json"}
_MARK = "_operation"
_commands: set[asyncio.Future[web.StreamResponse]] = set()  # the loop itself holds them only weakly
_INVALID = "Invalid request"
_NAMED = 5  # faults of one kind that are named
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_KEPT = 256  # characters of a query string that is worth keeping
_UID = "{uid:(?!search$|submit$|bulk$|cancel$)[^{}/]+}"  # what is a route of its own is no job id


OPERATIONS = web.AppKey("operations", dict[Any, "Operation"])
"""The operations of an application, by the handlers that aiohttp knows."""
COMMAND = web.RequestKey("command", asyncio.Future[web.StreamResponse])
"""What carries the command out, also when the caller has gone."""


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
    """What a caller needs; None: nothing, and no credential is asked for."""
    stream: bool = False
    """The answer goes on until its reader, or what it tells of, has ended."""
    use: bool = True
    """A call uses the instance, and puts an idle stop off; of a stream its beginning."""
    quiet: bool = False
    """What machines ask all the time: a call that succeeds has no line in the log."""
    port: Literal["api", "metrics", "both"] = "api"
    """Where it is served when there is a port for metrics alone; without one everything is served by the API's."""
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

    @property
    def negotiated(self) -> tuple[str, ...]:
        """The media types of which one is chosen by Accept; 406 where none is acceptable.

        Only reads of the API are refused for it: a command is carried out whatever its answer looks like, and probes
        and metrics are read by machines that say of Accept what they like.
        """
        if self.method != "GET" or not self.path.startswith("/v1/") or self.quiet:
            return ()
        return next((answer.media for answer in self.answers if answer.status == 200), ())


def operation(method: str, path: str, **details: Any) -> Callable[[Handler], Handler]:
    """Mark a method of a resource class as the handler of a route; its docstring describes the route."""
    body = details.get("body")
    if body is not None and not body.__struct_config__.forbid_unknown_fields:
        raise TypeError(f"{body.__name__} would let a mistyped parameter pass: forbid_unknown_fields")

    query = details.get("query")
    if query is not None and not query.__struct_config__.frozen:
        raise TypeError(f"{query.__name__} is handed to many requests: frozen")

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
    offered = op.negotiated

    async def handle(request: web.Request) -> web.StreamResponse:
        arguments: dict[str, Any] = {}
        if offered:
            negotiation.choose(request, offered)
            if len(offered) > 1:
                begun.vary(request, "Accept")
        for name, (argument, read) in readers:
            arguments[argument] = read(request.match_info[name])
        if op.body is not None:
            held, arguments["body"] = await _read_body(request, op)
            with held:
                result = await handler(request, **arguments)
                return result if isinstance(result, web.StreamResponse) else json_response(result)
        if op.query is not None or request.rel_url.raw_query_string:
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
            answer = await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # no caller is left to hear of it
            raise
        except BaseException:
            del request[COMMAND]  # it has the traceback, and that the body, for as long as the connection stays
            raise
        del request[COMMAND]
        return answer

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


class _Nothing(msgspec.Struct, frozen=True):
    """The query of a route that takes none."""


def _job_id(text: str) -> int:
    try:
        return fluid.parse(text)
    except ValueError as exc:
        raise InvalidRequest(f"{exc}.") from None


def _number(text: str) -> int:
    if (number := untrusted.digits(text)) is None:
        raise NotFound(f"There is no launcher {text!r}; GET /v1/launchers lists them.")
    return number


#: What a handler is given for each variable of a path.
_PATH: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uid": ("job", _job_id),
    "number": ("number", _number),
    "name": ("name", str),
}


def _read_query(request: web.Request, op: Operation) -> Any:
    text = request.rel_url.raw_query_string
    read = _kept_query if len(text) <= _KEPT else _query
    return read(op.query or _Nothing, text, op.message, op.loose)


def _query(cls: type[msgspec.Struct], text: str, message: str, loose: bool) -> msgspec.Struct:
    """Read a query string."""
    if not text:
        return cls()
    pairs = URL.build(query_string=text, encoded=True).query
    values = dict(pairs) if loose else fields.single(pairs)
    return fields.decode(cls, values, text=frozenset(values), message=message, loose=loose)


_kept_query = functools.lru_cache(maxsize=1024)(_query)  # what is asked for again and again is not read again each time


async def _read_body(request: web.Request, op: Operation) -> tuple[Holding, Any]:
    """Read a JSON body, a form and the query string into one struct: the same names in all three."""
    raw, held = await request.app[BODIES].read(request, small=op.scope is None)
    try:
        as_json = _is_json(request, raw)
        async with request.app[BODIES].decoding(members.weight(raw, members.at_most(raw) if as_json else 0)):
            if as_json:
                assert op.body is not None  # noqa: S101 - only called for operations that have one
                found = fields.count_members(op.body, raw, op.message)
                held.resize(counted(members.weight(raw, found)))
            return held, _decode_body(request, op, raw)
    except BaseException as exc:
        held.close()
        del raw
        if isinstance(exc, Problem):
            raise without_traceback(exc) from None  # or all that was decoded stays until the error has become an answer
        raise


def _is_json(request: web.Request, raw: bytes) -> bool:
    """Whether a body is read as JSON. `curl -d '{…}'` says that it sends a form: what it means is plain."""
    kind = request.content_type
    return kind != forms.MULTIPART and (kind == "application/json" or raw.lstrip().startswith(b"{"))


def _decode_body(request: web.Request, op: Operation, raw: bytes) -> Any:
    assert op.body is not None  # noqa: S101 - only called for operations that have one
    if request.content_type == "application/json" and not request.rel_url.raw_query_string:
        found = fields.decode_json(op.body, raw)
        if found is not None:
            return found
    query = fields.single(request.query)
    sent, text = _sent(request, raw)
    if both := sorted(query.keys() & sent.keys()):
        errors = [f"{fields.named(name)}: given in the query and in the body." for name in both[:_NAMED]]
        raise InvalidRequest(" ".join(errors), errors=errors, message=op.message)
    names = frozenset(query) | (frozenset(sent) if text else frozenset())
    values = {**query, **sent} if query else sent
    return fields.decode(op.body, values, text=names, message=op.message, form=True)


def _sent(request: web.Request, raw: bytes) -> tuple[dict[str, Any], bool]:
    """Return the body's values, and whether they are text."""
    kind = request.content_type
    if kind == forms.MULTIPART:
        return fields.single(forms.read(request, raw)), True
    if not raw:
        return {}, False
    if _is_json(request, raw):
        return json_object(raw), False
    if kind == forms.URLENCODED:
        return fields.single(forms.read(request, raw)), True
    raise UnsupportedMediaType(
        f"A body of type {fields.shown(kind)} is not read here; send application/json or a form."
    )


@contextlib.asynccontextmanager
async def read_form(request: web.Request) -> AsyncIterator[MultiMapping[str]]:
    """Read a form; a name may be there many times. Its bytes count as held until this context is left.

    Raises:
        InvalidRequest: it is none, or has files in it.
        RequestTimeout: it comes too slowly.
        UnsupportedMediaType: the body is no form.
    """
    raw, held = await request.app[BODIES].read(request, small=False)
    with held:
        async with request.app[BODIES].decoding(len(raw)):
            if raw and request.content_type not in (forms.MULTIPART, forms.URLENCODED):
                raise UnsupportedMediaType("The body is no form; send one.")
            form = forms.read(request, raw)
        yield form


def json_object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        value = msgspec.json.decode(raw)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not JSON: it is not UTF-8.") from None
    except msgspec.DecodeError as exc:
        half = _SURROGATE.search(raw) if "truncated" in str(exc) else None
        why = f"{half[0].decode()} is half of a character" if half else exc
        raise InvalidRequest(f"The body is not JSON: {why}.") from None
    except RecursionError:
        raise InvalidRequest("The body's JSON is nested too deeply.") from None
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {faults.kind(value)}.")
    return value
