"""Decodes responses of the job manager's journal, whatever they contain.

Nearly every response follows the RFCs and is decoded in one step; a large one in parts
(:mod:`~sidecar.instance.flux.large_responses`). A malformed one is decoded again member by member: a context that is
not an object is lost, a value that is nested too deeply becomes null, and the job's other events stay.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sidecar.domain import untrusted
from sidecar.domain.members import Faults, Members
from sidecar.domain.model import Event, JobEvents
from sidecar.instance.flux import depth, large_responses

_LONGEST_NAME = 256
_NO_TIME = -1.0  # which no event has
_SMALL = 64 * 1024  # bytes of a response that is decoded in one step
_LARGEST_ID = 2**63 - 1  # SQLite's largest integer; FLUIDs will not exceed it for centuries
_decode = msgspec.json.Decoder(JobEvents).decode


def decode(text: bytes) -> JobEvents:
    """Return the events of a response.

    Raises:
        ValueError: the job of the events is unknown.
    """
    try:
        response = _decode(depth.limited(text)) if len(text) <= _SMALL else large_responses.decode(text)
        if -1 <= response.id <= _LARGEST_ID and (response.events or response.id == -1):
            return response
    except (ValueError, RecursionError):
        pass  # malformed: decode as much of it as possible
    return _member_by_member(depth.limited(text))


def _member_by_member(text: bytes) -> JobEvents:
    try:
        value = json.loads(text.decode(errors="replace"), parse_int=_integer, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"the response is not JSON: {untrusted.text(str(exc), 200)}") from None
    faults = Faults()
    response = Members(untrusted.plain(value), "response", faults)
    jobid = response.whole("id", -2, low=0, high=_LARGEST_ID)
    if jobid == -2:
        raise ValueError(f"the response names no job: {', '.join(faults.take().values()) or 'it has no id'}")
    events = [_event(each, faults) for each in response.items("events")]
    if not events:
        raise ValueError(f"the response has no events of job {jobid}")
    spec, resources = (response.values.get(name) for name in ("jobspec", "R"))
    return JobEvents(
        jobid,
        events,
        jobspec=None if spec is None else dict(Members(spec, "jobspec", faults).values),
        R=None if resources is None else dict(Members(resources, "R", faults).values),
        faults=faults.take(),
    )


def _event(value: Any, faults: Faults) -> Event:
    """Decode one event; a malformed one still counts as an entry of the eventlog."""
    entry = Members(value, "event", faults)
    name = entry.text("name", _LONGEST_NAME, "unknown")
    timestamp = entry.seconds("timestamp")
    return Event(_NO_TIME if timestamp is None else timestamp, name, dict(entry.inner("context").values))


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) < 40 else None
