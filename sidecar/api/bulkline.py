"""A line of ``POST /v1/jobs/bulk``: its fields, and the errors for bodies that are not NDJSON."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from sidecar.api.fields import INVALID_SUBMIT
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.job_request import JobRequest
from sidecar.http import decoding
from sidecar.http.body_decoding import json_object
from sidecar.http.body_lines import Line

_ONE_EACH = "send a JSON object for each job, each on a line of its own (NDJSON)"
_ARRAY = f"A JSON array is not supported: {_ONE_EACH}, as jq -c '.[]' prints them."
_OBJECTS = (
    f"The line has several JSON objects: {_ONE_EACH}. With curl, --data-binary @FILE keeps line ends; -d @FILE removes "
    "them."
)
_COMMA = "The line begins or ends with a comma: send one JSON object per line, without commas between them."
_SEVERAL = re.compile(rb"\}[\s,\xef\xbb\xbf]*\{")  # a byte order mark too: where files were joined


class BulkLine(JobRequest, kw_only=True, forbid_unknown_fields=True):
    """One job of many."""

    idempotency_key: Annotated[
        str | None,
        Meta(description="makes a retry of this line safe; default: the header's key, a colon and the line number"),
    ] = None


def check_beginning(beginning: bytes) -> None:
    """Refuse a body that is a JSON array, because none of its lines can be a job.

    Args:
        beginning: the first bytes of the body, without leading white space.

    Raises:
        InvalidRequest: the body is an array.
    """
    if beginning.startswith(b"["):
        raise InvalidRequest(_ARRAY, message=INVALID_SUBMIT)


def decode(line: Line) -> BulkLine:
    """Decode a line.

    Raises:
        InvalidRequest: the line is not a JSON object, or the object is not a job.
    """
    request = decoding.decode_json(BulkLine, line.raw)
    if request is not None:
        return request
    text = line.raw.strip()
    if text.startswith(b"["):
        raise InvalidRequest(_ARRAY, message=INVALID_SUBMIT)
    if _SEVERAL.search(line.raw):
        _check_single(line.raw)
    if text.startswith(b",") or text.endswith(b","):
        raise InvalidRequest(_COMMA, message=INVALID_SUBMIT)
    return decoding.decode(BulkLine, json_object(line.raw), text=frozenset(), message=INVALID_SUBMIT)


def _check_single(raw: bytes) -> None:
    """Refuse a line that has several JSON objects.

    Raises:
        InvalidRequest: the line has.
    """
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
    except msgspec.DecodeError as exc:
        if "trailing characters" in str(exc):
            raise InvalidRequest(_OBJECTS, message=INVALID_SUBMIT) from None
