"""Jobs from the store, including those of an earlier version or with damaged data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.domain import fluid, untrusted
from sidecar.domain.model import DEFAULT_URGENCY, Job

_decode = msgspec.json.Decoder(Job).decode
_DEFAULTS: dict[str, Any] = {
    "userid": -1,
    "username": "",
    "submitter": "",
    "urgency": DEFAULT_URGENCY,
    "state": "INACTIVE",
    "name": "",
    "command": [],
    "cwd": "",
    "queue": "",
    "t_submit": 0.0,
}


def job(raw: bytes, jobid: int | None = None, columns: Mapping[str, Any] | None = None) -> Job:
    """Return a job; fields that cannot be decoded have defaults.

    Args:
        raw: JSON of the job.
        jobid: default: the ID in the JSON.
        columns: values of fields that the store contains in columns too.
    """
    try:
        return _decode(raw)
    except (ValueError, RecursionError):
        return _decode_fields(raw, jobid, columns or {})


def is_whole(raw: bytes) -> bool:
    """Whether bytes are a valid JSON object, which can be sent without decoding it."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        raw.isascii() or raw.decode()
    except (ValueError, RecursionError):
        return False
    return raw[:1] == b"{"


def _decode_fields(raw: bytes, jobid: int | None, columns: Mapping[str, Any]) -> Job:
    """Decode each field on its own."""
    stored = untrusted.plain(untrusted.decoded(raw))
    if jobid is None:
        jobid = stored["id"] if isinstance(stored.get("id"), int) and 0 <= stored["id"] < 2**64 else 0
    fields: dict[str, Any] = {}
    for field in msgspec.structs.fields(Job):
        for source in (stored, columns, _DEFAULTS):
            if field.name in source:
                try:
                    fields[field.name] = msgspec.convert(source[field.name], field.type)
                    break
                except msgspec.ValidationError:
                    continue
    return Job(**{**fields, "id": jobid, "f58id": fluid.f58(jobid)})
