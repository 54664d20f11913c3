"""Responses of the journal that are large: only so much of them becomes objects as is used of them.

A job's memos, the values in its jobspec and the graph in its R may have many megabytes, and are told again to every
server that follows the journal. They are passed over as the bytes that they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.domain import untrusted
from sidecar.domain.model import Event, JobEvents
from sidecar.domain.untrusted import Faults, Members
from sidecar.instance.flux import depth

_CONTEXT = 32 * 1024  # bytes of a context that are read; less is stored, and more annotations than that are none
_JOBSPEC = 2 * 1024 * 1024  # bytes of a jobspec, or of an update to one, that is read whole
_PARTS = 20_000  # objects and lists in it
_MEMBER = 256 * 1024  # bytes of one member of a jobspec that is larger, or of R
_NULL = msgspec.Raw(b"null")

#: What is read of a jobspec that is larger, and of any large R: members, and those within them.
_OF_JOBSPEC: dict[str, Any] = {
    "version": {},
    "resources": {},
    "tasks": {},
    "attributes": {
        "system": {
            "job": {},
            "cwd": {},
            "queue": {},
            "project": {},
            "bank": {},
            "duration": {},
            "dependencies": {},
            "constraints": {},
            "shell": {"options": {"per-resource": {}}},
        },
        "user": {"flux-sidecar": {}},
    },
}
_OF_R: dict[str, Any] = {"version": {}, "execution": {"R_lite": {}, "nodelist": {}, "starttime": {}, "expiration": {}}}


class _Entry(msgspec.Struct):
    timestamp: float
    name: str
    context: msgspec.Raw = msgspec.Raw(b"{}")


class _Response(msgspec.Struct):
    id: int
    events: list[_Entry]
    jobspec: msgspec.Raw = _NULL
    R: msgspec.Raw = _NULL


_response = msgspec.json.Decoder(_Response).decode


class _Few:
    """Reads a few members of an object, and passes over all others."""

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._within = {name: _Few(within) if within else None for name, within in wanted.items()}
        self._names = {f"member{number}": name for number, name in enumerate(wanted)}
        fields = [(field, msgspec.Raw, msgspec.Raw(b"")) for field in self._names]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Few", fields, rename=self._names)).decode

    def read(self, raw: msgspec.Raw) -> dict[str, Any]:
        """Return what there is of the members; nothing where it is no object."""
        try:
            members = self._decode(raw)
        except (ValueError, RecursionError):
            return {}
        found: dict[str, Any] = {}
        for field, name in self._names.items():
            part, within = getattr(members, field), self._within[name]
            if part and (within or len(part) <= _MEMBER):
                found[name] = within.read(part) if within else _value(part)
        return found


_few_of_jobspec, _few_of_r = _Few(_OF_JOBSPEC), _Few(_OF_R)


def decode(text: bytes) -> JobEvents:
    """Return the events of a response.

    Raises:
        ValueError: it is not as the RFCs say.
    """
    try:
        response = _response(text)
    except RecursionError:
        response = _response(depth.pruned(text))
    faults = Faults()
    events = [Event(each.timestamp, each.name, _context(each, faults)) for each in response.events]
    jobspec, resources = response.jobspec, response.R
    return JobEvents(
        response.id,
        events,
        jobspec=None if jobspec == _NULL else _jobspec(jobspec, faults),
        R=None if resources == _NULL else _few_of_r.read(resources),
        faults=faults.take(),
    )


def _context(entry: _Entry, faults: Faults) -> dict[str, Any]:
    if entry.name != "jobspec-update":
        if len(entry.context) > _CONTEXT:
            return untrusted.shortened(entry.context, _CONTEXT)
    elif _too_much(entry.context, "jobspec-update", faults):
        return {}
    return dict(Members(_value(entry.context), "event.context", faults).values)


def _jobspec(raw: msgspec.Raw, faults: Faults) -> dict[str, Any]:
    if _too_much(raw, "jobspec", faults):
        return _few_of_jobspec.read(raw)
    return dict(Members(_value(raw), "jobspec", faults).values)


def _too_much(raw: msgspec.Raw, what: str, faults: Faults) -> bool:
    """Whether a jobspec, or an update to one, is too large or has too many parts to be read whole."""
    if len(raw) <= _JOBSPEC and not depth.has_more(bytes(raw), _PARTS):
        return False
    most = f"{_JOBSPEC} bytes, or {_PARTS} objects and lists"
    faults.note(what, f"one with {len(raw)} bytes is not read whole: it has more than {most}")
    return True


def _value(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(depth.followed(bytes(raw)))
