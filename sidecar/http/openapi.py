"""Generate the OpenAPI 3.1 document from the operations and types that serve the requests."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any

import msgspec

import sidecar
from sidecar.domain.errors import ProblemBody
from sidecar.http import path_variables, rest_errors
from sidecar.http.operations import Answer, Operation
from sidecar.http.problems import CONTENT_TYPE

# RFC 9110; before 3.13 Python has the older phrases.
_PHRASES = {413: "Content Too Large", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
_REF = "#/components/schemas/{name}"
_BINARY = {"type": "string", "format": "binary"}
_SECURITY: dict[str, dict[str, Any]] = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token: from a token file, of Kubernetes, of an OIDC issuer, or of POST /v1/token. The header "
        "X-Token is read too, if Authorization is absent",
    },
    "basic": {
        "type": "http",
        "scheme": "basic",
        "description": "User and password, where configured",
    },
}


def document(operations: Sequence[Operation], *, anonymous: bool = False) -> dict[str, Any]:
    """Return the document.

    Args:
        operations: all operations; pages are omitted.
        anonymous: no credential is required.
    """
    operations = [op for op in operations if not op.page]
    types_ = list(dict.fromkeys(_types(operations)))
    schemas, components = msgspec.json.schema_components(types_, ref_template=_REF)
    schema = dict(zip(types_, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op, schema, components)
    _describe_fields(components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "flux-sidecar",
            "version": sidecar.__version__,
            "summary": "Jobs of a Flux instance over HTTP",
            "description": "Times are Unix seconds, durations seconds. Every error is a ProblemBody (RFC 9457), below "
            "/api/v1 a RestError. "
            "Parameters of a JSON body may as well be sent as a form, under the same names, or in the query; not "
            "passwords and tokens, which are never read from the query.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": dict(sorted(paths.items())),
        "security": [*([{}] if anonymous else []), *({name: []} for name in _SECURITY)],
        "components": {"schemas": dict(sorted(components.items())), "securitySchemes": _SECURITY},
    }


def _describe_fields(components: dict[str, Any]) -> None:
    """Move the description of an optional field from its type to the field, where readers and tools expect it."""
    for component in components.values():
        for field in component.get("properties", {}).values():
            for kind in field.get("anyOf", ()):
                if "description" not in field and "description" in kind:
                    field["description"] = kind.pop("description")


def _types(operations: Iterable[Operation]) -> Iterable[Any]:
    yield ProblemBody
    yield rest_errors.RestError
    for op in operations:
        yield from filter(None, (op.query, op.body, op.lines))
        for answer in op.answers:
            yield from alternatives(answer)


def _operation(op: Operation, schema: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": op.name,
        "summary": op.summary,
        "tags": [op.name.partition("_")[0]],
    }
    needs = f"Needs the scope {op.scope}." if op.scope else ""
    if description := " ".join(filter(None, (op.description, needs))):
        described["description"] = description
    if op.scope is None:
        described["security"] = []
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, **variable.parameter}
        for name, variable in path_variables.of_path(op.path).items()
    ]
    if op.query:
        parameters += _query(components.pop(op.query.__name__))
    parameters += [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in op.headers.items()
    ]
    if parameters:
        described["parameters"] = parameters
    if op.lines:
        # OpenAPI 3.1 cannot describe a sequence of JSON texts, and generated clients encode any media type with json in
        # its name.
        lines = {**_BINARY, "description": f"NDJSON (application/x-ndjson), one per line: {op.lines.__name__}"}
        described["requestBody"] = {"content": {"application/octet-stream": {"schema": lines}}, "required": True}
    if op.body:
        required = any(field.required for field in msgspec.structs.fields(op.body))
        # A form with the same schema is not described: generated clients would send both, or neither.
        described["requestBody"] = {"content": {"application/json": {"schema": schema[op.body]}}, "required": required}
    if rest_errors.is_rest_path(op.path):
        problem = {rest_errors.CONTENT_TYPE: {"schema": schema[rest_errors.RestError]}}
    else:
        problem = {CONTENT_TYPE: {"schema": schema[ProblemBody]}}
    described["responses"] = {
        **{str(answer.status): _answer(answer, schema) for answer in op.answers},
        **{
            str(status): {"description": _PHRASES.get(status) or HTTPStatus(status).phrase, "content": problem}
            for status in sorted({*op.errors, *common_errors(op)})
        },
    }
    return described


def common_errors(op: Operation) -> set[int]:
    """Return the errors that an operation has whatever it does."""
    statuses = {421} if op.method == "GET" else {403, 421}
    if op.scope is not None:
        statuses |= {401, 403, 429, 503}
    if op.body is not None:
        statuses.add(408)
    if op.negotiated:
        statuses.add(406)
    return statuses


def _answer(answer: Answer, schema: dict[Any, Any]) -> dict[str, Any]:
    kinds = [schema[type_] for type_ in alternatives(answer)]
    json = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    content = {media: _content(media, json) for media in answer.media}
    return {"description": answer.description, **({"content": content} if content else {})}


def _content(media: str, json: Any) -> dict[str, Any]:
    """Return the content of a media type; JSON Schema cannot describe lines and events."""
    if media == "application/json":
        return {"schema": json}
    if media.startswith("text/event-stream"):
        return {"schema": {}}  # tools validate different things against it: the text, or each event
    return {"schema": {"type": "string"} if media.startswith("text/") else dict(_BINARY)}


def alternatives(answer: Answer) -> tuple[Any, ...]:
    """Return the types that the JSON of a response may have."""
    if answer.type is None:
        return ()
    return typing.get_args(answer.type) if isinstance(answer.type, types.UnionType) else (answer.type,)


def _query(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one parameter per field; a query cannot express null."""
    parameters = []
    for name, field in schema["properties"].items():
        field = {key: value for key, value in field.items() if key != "default" or value is not None}
        if "anyOf" in field:
            kinds = [kind for kind in field.pop("anyOf") if kind.get("type") != "null"]
            field = {**(kinds[0] if len(kinds) == 1 else {"anyOf": kinds}), **field}
        description = field.pop("description", None)
        parameter = {"name": name, "in": "query", "required": False, "schema": field}
        parameters.append({**parameter, "description": description} if description else parameter)
    return parameters
