"""Decode request bodies: JSON, forms and the query string carry the same parameters."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec
from aiohttp import web
from multidict import MultiMapping

from sidecar.domain import json_size
from sidecar.domain.errors import InvalidRequest, Problem, UnsupportedMediaType, without_traceback
from sidecar.http import decoding, faults, field_types, forms, hints
from sidecar.http.body import BODIES, counted
from sidecar.http.operations import Operation
from sidecar.runtime.budget import Reservation

_MAX_NAMED = 5  # faults of one kind that an error names
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


async def read_body(request: web.Request, op: Operation) -> tuple[Reservation, Any]:
    """Read a body and the query string into one struct.

    Args:
        request: the request.
        op: has the struct; without a scope the body is limited to :data:`~sidecar.http.body.SMALL` bytes.

    Returns:
        The body's bytes in the budget, to be released once the request is answered, and the struct.

    Raises:
        Problem: see :meth:`~sidecar.http.body.Bodies.read` and :func:`~sidecar.http.decoding.decode`.
    """
    assert op.body is not None  # noqa: S101 - otherwise nothing is read
    bodies, cls = request.app[BODIES], op.body
    raw, held = await bodies.read(request, small=op.scope is None)
    try:
        as_json = op.json_only or _is_json(request, raw)
        async with bodies.decoding(json_size.weight(raw, json_size.at_most(raw) if as_json else 0)):
            if as_json:
                members = decoding.count_members(cls, raw, op.message)
                held.resize(counted(json_size.weight(raw, members)))
            decode = _decode_json_only if op.json_only else _decode
            return held, decode(request, op, cls, raw)
    except BaseException as exc:
        held.close()
        del raw
        if isinstance(exc, Problem):
            raise without_traceback(exc) from None  # it would keep all decoded values until the response is sent
        raise


@contextlib.asynccontextmanager
async def read_form(request: web.Request) -> AsyncIterator[MultiMapping[str]]:
    """Read a form, in which names may repeat; its bytes count against the budget inside this context.

    Raises:
        InvalidRequest: the form is malformed or contains files.
        RequestTimeout: the body was not received in time.
        UnsupportedMediaType: the body is not a form.
    """
    bodies = request.app[BODIES]
    raw, held = await bodies.read(request, small=False)
    with held:
        async with bodies.decoding(len(raw)):
            if raw and request.content_type not in (forms.MULTIPART, forms.URLENCODED):
                raise UnsupportedMediaType("The body is not a form; send one.")
            form = forms.parse(request, raw)
        yield form


def json_object(raw: bytes) -> dict[str, Any]:
    """Decode a JSON object.

    Raises:
        InvalidRequest: the text is not JSON, or not an object.
    """
    value = _json_value(raw)
    if not isinstance(value, dict):
        raise InvalidRequest(f"The body must be a JSON object, not {faults.kind(value)}.")
    return value


def _json_value(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except UnicodeDecodeError:
        raise InvalidRequest("The body is not JSON: it is not UTF-8.") from None
    except msgspec.DecodeError as exc:
        half = _SURROGATE.search(raw) if "truncated" in str(exc) else None
        why = f"{half[0].decode()} is half of a character" if half else exc
        raise InvalidRequest(f"The body is not JSON: {why}.") from None
    except RecursionError:
        raise InvalidRequest("The body's JSON is nested too deeply.") from None


def _is_json(request: web.Request, raw: bytes) -> bool:
    """Whether to read a body as JSON, also where ``curl -d '{…}'`` declares it as a form."""
    kind = request.content_type
    return kind != forms.MULTIPART and (kind == "application/json" or raw.lstrip().startswith(b"{"))


def _decode(request: web.Request, op: Operation, cls: type[msgspec.Struct], raw: bytes) -> msgspec.Struct:
    if request.content_type == "application/json" and not request.rel_url.raw_query_string:
        decoded = decoding.decode_json(cls, raw)
        if decoded is not None:
            return decoded
    query = decoding.unique_values(request.query)
    sent, is_text = _body_values(request, raw)
    if op.whole_body and sent and not is_text and op.whole_body not in query and _is_whole_body(cls, query, sent):
        sent = {op.whole_body: sent}
    if both := sorted(query.keys() & sent.keys()):
        errors = [f"{faults.quote_name(name)}: given in the query and in the body." for name in both[:_MAX_NAMED]]
        raise InvalidRequest(" ".join(errors), errors=errors, message=op.message)
    text = frozenset(query) | (frozenset(sent) if is_text else frozenset())
    values = {**query, **sent} if query else sent
    return decoding.decode(cls, values, text=text, message=op.message, form=True)


def _is_whole_body(cls: type[msgspec.Struct], query: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
    """Return whether a JSON body is the value of one field, as flux-restful 1.1 reads it, and no object of parameters.

    It is if the query has all parameters that are required, and the body has no member with the name of a parameter,
    or with one that is so similar that it is probably mistyped. Parameters are in lower case: a name in upper case is
    none.
    """
    fields = field_types.fields(cls)
    if not all(name in query for name in field_types.required(cls)):
        return False
    return not any(name in fields or (name != name.upper() and hints.is_close(name, fields)) for name in sent)


def _decode_json_only(request: web.Request, op: Operation, cls: type[msgspec.Struct], raw: bytes) -> msgspec.Struct:
    """Decode a JSON object, with the errors of flux-rest-server; an empty body has no parameters."""
    if request.rel_url.raw_query_string:
        raise InvalidRequest("The parameters are in the body here; leave the query out.")
    try:
        values = _json_value(raw) if raw else {}
    except InvalidRequest as exc:
        raise InvalidRequest(exc.detail, message="malformed request") from None
    if not isinstance(values, dict):
        raise InvalidRequest("request body must be a JSON object")
    return decoding.decode(cls, values, text=frozenset(), message=op.message)


def _body_values(request: web.Request, raw: bytes) -> tuple[dict[str, Any], bool]:
    """Return the named values of a body, and whether they are text."""
    kind = request.content_type
    if kind == forms.MULTIPART:
        return decoding.unique_values(forms.parse(request, raw)), True
    if not raw:
        return {}, False
    if _is_json(request, raw):
        return json_object(raw), False
    if kind == forms.URLENCODED:
        return decoding.unique_values(forms.parse(request, raw)), True
    raise UnsupportedMediaType(
        f"A body of type {faults.quote(kind)} is not supported; send application/json or a form."
    )
