"""From the text of a response of the job manager's journal to events, whatever stands in it.

Nearly every response is as the RFCs say, and is read in one step; a large one in parts (:mod:`sidecar.large`). What is
not as they say is read again member by member: a context that is no object costs that context, a value that is nested
too deeply becomes null, and the job's other events stay.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sidecar.domain import untrusted
from sidecar.domain.model import Event, JobEvents
from sidecar.domain.untrusted import Faults, Members
from sidecar.instance.flux import depth
from sidecar.instance.flux import large_responses as large

_LONGEST_NAME = 256
_NO_TIME = -1.0  # which no event has either
_SMALL = 64 * 1024  # bytes of a response that is read in one step
_LARGEST_ID = 2**63 - 1  # what SQLite can hold; no FLUID of the next centuries is larger
_decode = msgspec.json.Decoder(JobEvents).decode


def decode(text: bytes) -> JobEvents:
    """Return the events of a response.

    Raises:
        ValueError: it cannot be seen which job they are of.
    """
    try:
        found = _decode(depth.followed(text)) if len(text) <= _SMALL else large.decode(text)
        if -1 <= found.id <= _LARGEST_ID and (found.events or found.id == -1):
            return found
    except (ValueError, RecursionError):
        pass  # read again below, for as much of it as there is
    return _member_by_member(depth.followed(text))


def _member_by_member(text: bytes) -> JobEvents:
    try:
        value = json.loads(text.decode(errors="replace"), parse_int=_integer, parse_constant=lambda _: None)
    except (ValueError, RecursionError) as exc:
        raise ValueError(f"the response is not JSON: {untrusted.text(str(exc), 200)}") from None
    faults = Faults()
    response = Members(untrusted.plain(value), "response", faults)
    job = response.whole("id", -2, low=0, high=_LARGEST_ID)
    if job == -2:
        raise ValueError(f"the response names no job: {', '.join(faults.take().values()) or 'it has no id'}")
    events = [_event(each, faults) for each in response.items("events")]
    if not events:
        raise ValueError(f"the response has no events of job {job}")
    spec, resources = (response.values.get(name) for name in ("jobspec", "R"))
    return JobEvents(
        job,
        events,
        jobspec=None if spec is None else dict(Members(spec, "jobspec", faults).values),
        R=None if resources is None else dict(Members(resources, "R", faults).values),
        faults=faults.take(),
    )


def _event(value: Any, faults: Faults) -> Event:
    """Read one event; it stays one of the eventlog, whatever it is."""
    entry = Members(value, "event", faults)
    name = entry.text("name", _LONGEST_NAME, "unknown")
    timestamp = entry.seconds("timestamp")
    return Event(_NO_TIME if timestamp is None else timestamp, name, dict(entry.inner("context").values))


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) < 40 else None
