"""A job from what the store holds of it, also where that is of an earlier version, or damaged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.domain import fluid, untrusted
from sidecar.domain.model import Job

_decode = msgspec.json.Decoder(Job).decode
_NOTHING: dict[str, Any] = {
    "userid": -1,
    "username": "",
    "submitter": "",
    "urgency": 16,
    "state": "INACTIVE",
    "name": "",
    "command": [],
    "cwd": "",
    "queue": "",
    "t_submit": 0.0,
}


def job(raw: bytes, fluid_: int | None = None, columns: Mapping[str, Any] | None = None) -> Job:
    """Return a job; what cannot be read of it is empty.

    Args:
        raw: its JSON.
        fluid_: its id; without it the one that the JSON has.
        columns: members that the store holds a second time.
    """
    try:
        return _decode(raw)
    except (ValueError, RecursionError):
        return _member_by_member(raw, fluid_, columns or {})


def is_whole(raw: bytes) -> bool:
    """Whether bytes are JSON that can be sent on."""
    try:
        msgspec.json.decode(raw, type=msgspec.Raw)
        raw.isascii() or raw.decode()
    except (ValueError, RecursionError):
        return False
    return raw[:1] == b"{"


def _member_by_member(raw: bytes, fluid_: int | None, columns: Mapping[str, Any]) -> Job:
    stored = untrusted.plain(untrusted.decoded(raw))
    if fluid_ is None:
        fluid_ = stored["id"] if isinstance(stored.get("id"), int) and 0 <= stored["id"] < 2**64 else 0
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Job):
        for source in (stored, columns, _NOTHING):
            if field.name in source:
                try:
                    found[field.name] = msgspec.convert(source[field.name], field.type)
                    break
                except msgspec.ValidationError:
                    continue
    return Job(**{**found, "id": fluid_, "f58id": fluid.f58(fluid_)})
