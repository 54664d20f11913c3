"""Fold the events of a job into a :class:`~sidecar.journal.record.Record`.

The same eventlog always gives the same job, whether it is read live, from the journal's history or after a restart.
The state machine is in :mod:`sidecar.journal.transitions`; nothing else decides the state of a job.
"""

from __future__ import annotations

import functools
import pwd
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from sidecar.domain import fluid, submitters, untrusted
from sidecar.domain.members import Faults, Members
from sidecar.domain.model import DEFAULT_URGENCY, HIGHEST_URGENCY, Entry, Event, Job, JobEvents
from sidecar.journal import details
from sidecar.journal.record import Record
from sidecar.journal.transitions import AFTER_END, HANDLERS, note_exception

_EVENT_NAME = 256  # bytes
_HIGHEST_USERID = 2**32 - 1


def new_record(events: JobEvents) -> Record | None:
    """Start a record from a journal response; return None if it does not begin with the submit event."""
    if not events.events or events.events[0].name != "submit":
        return None
    faults = Faults()
    first, spec = Members(events.events[0].context, "submit", faults), events.jobspec or {}
    userid = first.whole("userid", -1, high=_HIGHEST_USERID)
    job = Job(
        id=events.id,
        f58id=fluid.f58(events.id),
        userid=userid,
        username=username(userid),
        submitter=untrusted.text(submitters.submitter(spec), details.NAME),
        urgency=first.whole("urgency", DEFAULT_URGENCY, high=HIGHEST_URGENCY),
        state="NEW",
        name="",
        command=[],
        cwd="",
        queue="",
        t_submit=untrusted.seconds(events.events[0].timestamp) or 0.0,
    )
    record = Record(job, untrusted.encode(spec), idempotency_key=submitters.idempotency_key(spec), faults=faults)
    try:
        details.apply_jobspec(record, spec)
    except Exception as exc:
        _note_bug(record, "jobspec", exc)
    return record


def ended_until(events: JobEvents, time: float) -> bool:
    """Return whether the last event of an eventlog has a valid timestamp up to a time (Unix seconds)."""
    end = untrusted.seconds(events.events[-1].timestamp)
    return end is not None and end <= time


def restore_record(job: Job, spec: bytes, nevents: int, exceptions: Iterable[Mapping[str, Any]]) -> Record:
    """Recreate a record from the store.

    Args:
        job: the job.
        spec: JSON of its jobspec, with all updates so far.
        nevents: number of entries in its eventlog.
        exceptions: contexts of its exceptions, in order.
    """
    record = Record(job, spec, nevents)
    for context in exceptions:
        note_exception(record, context)
    return record


def extend(record: Record, events: JobEvents) -> list[Entry]:
    """Fold a journal response into a record.

    Returns:
        The eventlog entries in the response, each with the state that it led to.
    """
    for kind, detail in events.faults.items():
        record.faults.note(kind, detail)
    record.R = events.R or record.R
    entries = [entry for event in events.events if (entry := apply(record, event))]
    if record.job.t_run is not UNSET:
        record.R = None  # applied already, and large
    return entries


def apply(record: Record, event: Event) -> Entry | None:
    """Fold one event, whatever its content. Unknown events are counted and change nothing else (RFC 18).

    Returns:
        The event as an eventlog entry; None for ``annotations``, which is in the live journal only.
    """
    job = record.job
    timestamp = untrusted.seconds(event.timestamp)
    if timestamp is None:
        record.faults.note("event.timestamp", f"expected seconds; got {untrusted.shown(event.timestamp)}")
        event = msgspec.structs.replace(event, timestamp=job.t_submit)
    handler = HANDLERS.get(event.name)
    if handler and (record.active or event.name in AFTER_END):
        try:
            handler(record, event)
        except Exception as exc:
            _note_bug(record, event.name, exc)
    if event.name == "annotations":
        return None
    record.nevents += 1
    name = event.name if handler else untrusted.text(event.name, _EVENT_NAME)
    entry = Entry(event.timestamp, name, event.context, job.state)
    if not record.active:
        entry.result, entry.returncode = job.result, job.returncode
    return entry


def _note_bug(record: Record, part: str, exc: Exception) -> None:
    """Note an exception in one part of a job: a bug triggered by an unforeseen value must not affect the others."""
    record.faults.note(part, f"cannot be folded: {type(exc).__name__}: {untrusted.text(str(exc), 200)}")


@functools.lru_cache(maxsize=4096)
def username(userid: int) -> str:
    """Return the name of a user, or the number if this machine does not know the name."""
    try:
        return pwd.getpwuid(userid).pw_name
    except (KeyError, OverflowError):
        return str(userid)
