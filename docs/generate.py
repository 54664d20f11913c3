"""Generate documents from code; a test fails if one is stale."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from docs import chart, dashboard, dialect, differences, metrics
from sidecar.app.server import Server
from sidecar.config import table
from sidecar.config.embedded import EmbeddedOptions
from sidecar.config.settings import Settings
from sidecar.domain import errors, model
from sidecar.http import openapi
from sidecar.http.operations import Answer, Operation

HERE = Path(__file__).parent
_MADE = "<!-- Made from the code by `make docs`; do not edit. -->\n"


def settings_page() -> str:
    rows = ["# Settings\n", _MADE]
    rows.append(
        "\nEvery option of `flux-sidecar serve` can be set by a flag or by a variable. A flag takes precedence; of\n"
        "several variables the first one that is set applies. The variable of an option with the flags `--NAME` and\n"
        "`--no-NAME` takes `true`, `yes` or `1`, or `false`, `no` or `0`. An empty variable counts as not set, unless\n"
        "the option takes text. Variables without `FLUX_SIDECAR_` are those of flux-restful-api and of Flux itself.\n"
    )
    for title, options in table.by_group().items():
        rows.append(f"\n## {title}\n\n| flag | variables | default | description |\n|---|---|---|---|\n")
        for option in options:
            variables = ", ".join(f"`{variable}`" for variable in option.variables)
            rows.append(f"| {option.flags} | {variables} | {option.shown_default} | {option.description} |\n")
    return "".join(rows)


_HTTP = """
## Requests and responses

* **Version**: HTTP/1.1 and HTTP/1.0; others are 505. HTTPS on a plain port, and plain HTTP on one with TLS, get a 400
  that says so.
* **`Host`** has to name this server (`--allowed-hosts`); else the answer is 421. Where the request line has a whole
  address, its host has to as well, and `Host` is read beside it: a proxy in front may have gone by either.
* **Size**: 64 KiB for the request line and for each header, 80 KiB and 256 headers in all; more is 431. A query has
  1,000 parameters at most.
* **Bodies**: JSON, a form (URL-encoded or multipart) or the query, under the same names. Text is UTF-8, with or
  without a byte order mark; another charset, or any `Content-Encoding`, is 415. Bytes that are not UTF-8 are 400, also
  percent-encoded ones in a path, a query or a form.
* **Compression**: lists, searches, eventlogs, outputs and metrics of 32 KiB and more are sent with gzip if
  `Accept-Encoding` allows it. Nothing else is compressed.
* **Conditional requests**: an answer with an `ETag` is 304 while `If-None-Match` has that tag and nothing has changed.
* **`Accept`**, as in RFC 9110: lists, `q`, wildcards, any case. A `GET` below `/v1/` is 406 where none of its types
  is acceptable. Commands, probes and metrics are answered all the same; errors are always problems.
* **Charset**: `text/plain` and `text/event-stream` say that they are UTF-8. What a job wrote, whatever it is, is
  `application/octet-stream`.
* **`Location` and `Link`** are relative, so that they hold behind a path prefix: resolve them against the request's
  address.
* **`If-None-Match`, `If-Match`, `Range` and `If-Range`** are for `/openapi.json` and `/static/`: 304, 412, 206, 416.
  Lists, jobs and output change all the time: continue with `cursor`, `position` or the IDs of a stream.
* **Seconds** are a number, or as text a duration: `90s`, `1h30m`, `1.5d`.
"""


def operations() -> list[Operation]:
    """Return the operations of a server that is never started."""
    settings = Settings(engine=EmbeddedOptions(embedded=True))
    return [op for op in Server(settings, Path("/nonexistent")).operations if not op.page]


def api_page() -> str:
    rows = ["# The HTTP API\n", _MADE]
    rows.append(
        "\nTimes are Unix seconds, durations seconds. `{uid}` and `{id}` are job ids in any of Flux's spellings:\n"
        "decimal, `ƒ…` or `f…`, `0x…`, dothex, KVS, words, emoji. Also as OpenAPI 3.1: `/openapi.json`; try it out at\n"
        "`/docs`.\n"
    )
    rows.append(_contents())
    rows.append(_HTTP)
    rows += [dialect.section(), _job()]
    for op in operations():
        rows.append(f"\n## `{op.method} {op.path}`\n\n{op.summary}.")
        needs = f"Needs the scope `{op.scope}`." if op.scope else "Needs no credential."
        rows.append(f" {op.description} {needs}\n" if op.description else f" {needs}\n")
        if struct := op.query or op.body:
            body = "JSON body" if op.json_only else "JSON body, form or query"
            rows.append(_parameters(struct, "query" if op.query else body))
        if op.lines:
            rows.append(_parameters(op.lines, "each line"))
        if op.headers:
            rows.append("\n| header | |\n|---|---|\n" + "".join(f"| `{k}` | {v} |\n" for k, v in op.headers.items()))
        answers = [
            f"{answer.status}: {answer.description[:1].lower()}{answer.description[1:]}" for answer in op.answers
        ]
        rows.append(f"\nResponses: {'; '.join(answers)}. Errors: {', '.join(map(str, errors_of(op)))}.\n")
        rows += [_body(answer) for answer in op.answers]
    rows += [_errors(), differences.section()]
    return "".join(rows)


def _contents() -> str:
    """Return the table of contents."""
    rows = ["\n## Contents\n\n* [Requests and responses](#requests-and-responses)\n"]
    rows += ["* [Clients of flux-rest-server](#clients-of-flux-rest-server)\n* [A job](#a-job)\n"]
    for op in operations():
        title = f"{op.method} {op.path}"
        anchor = re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        rows.append(f"* [`{title}`](#{anchor}): {op.summary[:1].lower()}{op.summary[1:]}\n")
    rows.append("* [Errors](#errors)\n")
    return "".join(rows)


def _body(answer: Answer) -> str:
    """Return the fields of a response, and of the structs in them; the fields of a job have their own section."""
    rows: list[str] = []
    for kind in openapi.alternatives(answer):
        definitions = msgspec.json.schema(kind).get("$defs", {})
        for name, schema in definitions.items():
            if name not in ("Job", "ExceptionInfo", "ProblemBody") and schema.get("properties"):
                rows.append(_fields(schema, f"`{name}`", ""))
    return "".join(rows)


def _job() -> str:
    """Return the meaning of a job's fields, states and results."""
    rows = [
        '\n## A job\n\nWhere a value is not known yet, a number is `""`, as flux-restful-api answered; times\n'
        "and texts that are not known are left out.\n",
        _parameters(model.Job, "field", ""),
    ]
    for title, texts in (("state", model.STATE_TEXTS), ("result", model.RESULT_TEXTS)):
        rows.append(f"\n| {title} | |\n|---|---|\n")
        rows += [f"| `{word}` | {text} |\n" for word, text in texts.items()]
    return "".join(rows)


def errors_of(op: Operation) -> list[int]:
    return sorted({*op.errors, *openapi.common_errors(op)})


def _parameters(struct: type[msgspec.Struct], where: str, required_text: str = "required. ") -> str:
    schema = msgspec.json.schema(struct)["$defs"][struct.__name__]
    return _fields(schema, where, required_text) if schema["properties"] else ""


def _fields(schema: dict[str, Any], where: str, required_text: str) -> str:
    rows = [f"\n| {where} | type | |\n|---|---|---|\n"]
    for name, field in schema["properties"].items():
        required = required_text if name in schema.get("required", ()) else ""
        rows.append(f"| `{name}` | {_type(field)} | {required}{_description(field)} |\n")
    return "".join(rows)


def _description(field: dict[str, object]) -> str:
    """Return a field's description; for an optional field with limits it is in the type."""
    kinds: list[dict[str, object]] = field.get("anyOf", [])  # type: ignore[assignment]
    return str(next((part["description"] for part in (field, *kinds) if "description" in part), ""))


def _type(field: dict[str, object]) -> str:
    if "$ref" in field:
        return str(field["$ref"]).rpartition("/")[2]
    if "anyOf" in field:
        kinds = [_type(kind) for kind in field["anyOf"]]  # type: ignore[attr-defined]
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in field:
        return ", ".join(f"`{value}`" if value else '`""`' for value in field["enum"])  # type: ignore[attr-defined]
    text = str(field.get("type", "any"))
    low, high = field.get("minimum"), field.get("maximum")
    return text + (f" ≥ {low}" if low is not None else "") + (f" ≤ {high}" if high is not None else "")


def _errors() -> str:
    rows = [
        "\n## Errors\n\nEvery error of every route, except those below `/api/v1`, has one shape,\n"
        "`application/problem+json` (RFC 9457), with the members that flux-restful-api's clients read:\n\n"
        '```json\n{"type": "urn:flux-sidecar:problem:not-found", "title": "Not found", "status": 404,\n'
        ' "detail": "There is no job ƒ4fr (12345).", "Message": "There is no job ƒ4fr (12345).",\n'
        ' "Errors": ["There is no job ƒ4fr (12345)."]}\n```\n\n| status | type | when |\n|---|---|---|\n'
    ]
    # A subclass may share the slug of its parent.
    kinds = {cls.slug: cls for cls in reversed(list(_problems(errors.Problem)))}
    for cls in sorted(kinds.values(), key=lambda cls: (cls.status, cls.slug)):
        when = (cls.__doc__ or "").partition(":")[0]
        if cls is errors.Problem:
            when = "The server failed; its log has the cause"
        rows.append(f"| {cls.status} | `urn:flux-sidecar:problem:{cls.slug}` | {when} |\n")
    return "".join(rows)


def _problems(cls: type[errors.Problem]) -> Iterator[type[errors.Problem]]:
    """Yield a class of problems and its subclasses."""
    yield cls
    for child in cls.__subclasses__():
        yield from _problems(child)


PAGES = {"settings.md": settings_page, "api.md": api_page, "metrics.md": metrics.page}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
    document = msgspec.json.format(msgspec.json.encode(openapi.document(operations())), indent=2)
    (HERE / "openapi.json").write_bytes(document + b"\n")
    chart.main()
    dashboard.FILE.write_text(dashboard.page())


if __name__ == "__main__":
    main()
