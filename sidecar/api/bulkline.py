"""A line of ``POST /v1/jobs/bulk``: what it may hold, and what is said of bodies that are no NDJSON."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.domain.errors import InvalidRequest
from sidecar.domain.job_request import JobRequest
from sidecar.http import decoding
from sidecar.http.body_decoding import json_object
from sidecar.http.body_lines import Line

INVALID = "Invalid submit request"
_ONE_EACH = "send a JSON object for each job, each on a line of its own (NDJSON)"
_ARRAY = f"A JSON array is not read here: {_ONE_EACH}, as jq -c '.[]' writes them."
_OBJECTS = (
    f"The line holds several JSON objects: {_ONE_EACH}. With curl, --data-binary @FILE keeps the line ends; -d @FILE "
    "removes them."
)
_COMMA = "The line begins or ends with a comma: send one JSON object per line, without commas between them."
_SEVERAL = re.compile(rb"\}[\s,\xef\xbb\xbf]*\{")  # also with a byte order mark, where files were joined


class BulkLine(JobRequest, kw_only=True, forbid_unknown_fields=True):
    """One job of many."""

    idempotency_key: Annotated[
        str | None,
        Meta(description="makes it safe to repeat this line; default: the header's key, and the line number"),
    ] = None


def check_beginning(beginning: bytes) -> None:
    """Let a body through that may be NDJSON.

    Args:
        beginning: without white space.

    Raises:
        InvalidRequest: it is an array, so that no line of it can be a job.
    """
    if beginning.startswith(b"["):
        raise InvalidRequest(_ARRAY, message=INVALID)


def decode(line: Line) -> BulkLine:
    """Make a job of a line.

    Raises:
        InvalidRequest: it is no JSON object, or no job.
    """
    found = decoding.decode_json(BulkLine, line.raw)
    if found is None:
        if line.raw.lstrip().startswith(b"["):
            raise InvalidRequest(_ARRAY, message=INVALID)
        if _SEVERAL.search(line.raw):
            _check_single(line.raw)
        text = line.raw.strip()
        if text.startswith(b",") or text.endswith(b","):
            raise InvalidRequest(_COMMA, message=INVALID)
        found = decoding.decode(BulkLine, json_object(line.raw), text=frozenset(), message=INVALID)
    return found


def _check_single(raw: bytes) -> None:
    """Let a line through that does not hold several JSON objects.

    Raises:
        InvalidRequest: it does.
    """
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except msgspec.DecodeError as exc:
        if "trailing characters" in str(exc):
            raise InvalidRequest(_OBJECTS, message=INVALID) from None
