"""Decodes large responses of the journal: only the members that this server uses become objects.

A job's memos, the values in its jobspec and the graph in its R may have many megabytes, and every server that follows
the journal receives them. The members that are not used stay bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from sidecar.domain import untrusted
from sidecar.domain.members import Faults, Members
from sidecar.domain.model import Event, JobEvents
from sidecar.instance.flux import depth

_CONTEXT = 32 * 1024  # bytes of a context that are decoded; the store has smaller limits
_JOBSPEC = 2 * 1024 * 1024  # bytes of a jobspec, or of an update to one, that is decoded whole
_PARTS = 20_000  # objects and arrays in it
_MEMBER = 256 * 1024  # bytes of one member of a larger jobspec, or of R
_NULL = msgspec.Raw(b"null")

#: The members that are decoded of a larger jobspec, and of any large R, and those within them.
_JOBSPEC_MEMBERS: dict[str, Any] = {
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
_R_MEMBERS: dict[str, Any] = {
    "version": {},
    "execution": {"R_lite": {}, "nodelist": {}, "starttime": {}, "expiration": {}},
}


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


class _Selection:
    """Decodes some members of an object and skips all others.

    Args:
        wanted: the names of the members, each with the members to decode within it; all of them if empty.
    """

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        self._within = {name: _Selection(within) if within else None for name, within in wanted.items()}
        self._names = {f"member{number}": name for number, name in enumerate(wanted)}
        fields = [(field, msgspec.Raw, msgspec.Raw(b"")) for field in self._names]
        self._decode = msgspec.json.Decoder(msgspec.defstruct("Selection", fields, rename=self._names)).decode

    def read(self, raw: msgspec.Raw) -> dict[str, Any]:
        """Return the members that exist; none if it is not an object."""
        try:
            members = self._decode(raw)
        except (ValueError, RecursionError):
            return {}
        selected: dict[str, Any] = {}
        for field, name in self._names.items():
            part, within = getattr(members, field), self._within[name]
            if part and (within or len(part) <= _MEMBER):
                selected[name] = within.read(part) if within else _value(part)
        return selected


_jobspec_selection, _r_selection = _Selection(_JOBSPEC_MEMBERS), _Selection(_R_MEMBERS)


def decode(text: bytes) -> JobEvents:
    """Return the events of a response.

    Raises:
        ValueError: it does not follow the RFCs.
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
        R=None if resources == _NULL else _r_selection.read(resources),
        faults=faults.take(),
    )


def _context(entry: _Entry, faults: Faults) -> dict[str, Any]:
    if entry.name != "jobspec-update":
        if len(entry.context) > _CONTEXT:
            return untrusted.shortened(entry.context, _CONTEXT)
    elif _too_large(entry.context, "jobspec-update", faults):
        return {}
    return dict(Members(_value(entry.context), "event.context", faults).values)


def _jobspec(raw: msgspec.Raw, faults: Faults) -> dict[str, Any]:
    if _too_large(raw, "jobspec", faults):
        return _jobspec_selection.read(raw)
    return dict(Members(_value(raw), "jobspec", faults).values)


def _too_large(raw: msgspec.Raw, what: str, faults: Faults) -> bool:
    """Whether a jobspec, or an update to one, is too large or has too many parts to be decoded whole."""
    if len(raw) <= _JOBSPEC and not depth.exceeds(bytes(raw), _PARTS):
        return False
    limit = f"{_JOBSPEC} bytes, or {_PARTS} objects and arrays"
    faults.note(what, f"only some members of {len(raw)} bytes are read: it has more than {limit}")
    return True


def _value(raw: msgspec.Raw) -> Any:
    return msgspec.json.decode(depth.limited(bytes(raw)))
