"""A job's state from its events: the state machine of RFC 21, and the fields of Flux's job-list module.

:func:`apply` folds one event into a :class:`Record`. The same eventlog always gives the same job, live, from the
journal's history or after a restart; nothing else in this package decides what state a job is in.
"""

from __future__ import annotations

import functools
import os
import pwd
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from sidecar.domain import fluid, jobspec, untrusted
from sidecar.domain.model import Entry, Event, ExceptionInfo, Job, JobEvents, Result, Unset
from sidecar.domain.untrusted import Faults, Members
from sidecar.journal import details
from sidecar.journal.record import Record

_TYPE, _NOTE, _EVENT, _DEPENDENCY = 128, 4096, 256, 1024  # the most bytes of each
_DEPENDENCIES = 16 * 1024
_LEAST_SEVERE = 7
_NO_STATUS = -1
_HIGHEST_PRIORITY = 2**32 - 1


def new(events: JobEvents) -> Record | None:
    """Start a record from a response that holds the submit event; None when it does not."""
    if not events.events or events.events[0].name != "submit":
        return None
    faults = Faults()
    first, spec = Members(events.events[0].context, "submit", faults), events.jobspec or {}
    userid = first.whole("userid", -1, high=_HIGHEST_PRIORITY)
    job = Job(
        id=events.id,
        f58id=fluid.f58(events.id),
        userid=userid,
        username=username(userid),
        submitter=untrusted.text(jobspec.submitter(spec), details.NAME),
        urgency=first.whole("urgency", 16, high=31),
        state="NEW",
        name="",
        command=[],
        cwd="",
        queue="",
        t_submit=untrusted.seconds(events.events[0].timestamp) or 0.0,
    )
    record = Record(job, untrusted.encode(spec), key=jobspec.key(spec), faults=faults)
    _guarded(record, "jobspec", lambda: details.from_jobspec(record, spec))
    return record


def again(job: Job, spec: bytes, nevents: int, exceptions: Iterable[Mapping[str, Any]]) -> Record:
    """Make the record of a job anew from what the store keeps of it, to go on where it was left.

    Args:
        job: the job.
        spec: its jobspec as JSON, with all updates so far.
        nevents: how many entries its eventlog has.
        exceptions: the contexts of its exceptions, in their order.
    """
    record = Record(job, spec, nevents)
    for context in exceptions:
        _note_exception(record, context)
    return record


def extend(record: Record, events: JobEvents) -> list[Entry]:
    """Fold a journal response into a record.

    Returns:
        The entries of the job's eventlog among its events, each with the state that it led to.
    """
    for kind, detail in events.faults.items():
        record.faults.note(kind, detail)
    record.R = events.R or record.R
    entries = [entry for event in events.events if (entry := apply(record, event))]
    if record.job.t_run is not UNSET:
        record.R = None  # it has told what it had to
    return entries


def apply(record: Record, event: Event) -> Entry | None:
    """Fold one event, whatever it holds. Unknown events count, and change nothing (RFC 18 allows for more).

    Returns:
        The event as an entry of the job's eventlog; None for what only the live journal tells (``annotations``).
    """
    job = record.job
    timestamp = untrusted.seconds(event.timestamp)
    if timestamp is None:
        record.faults.note("event.timestamp", f"expected seconds; got {untrusted.shown(event.timestamp)}")
        event = msgspec.structs.replace(event, timestamp=job.t_submit)
    handler = _HANDLERS.get(event.name)
    if handler and (record.active or event.name in _AFTERWARDS):
        _guarded(record, event.name, lambda: handler(record, event))
    if event.name == "annotations":
        return None
    record.nevents += 1
    entry = Entry(event.timestamp, untrusted.text(event.name, _EVENT), event.context, job.state)
    if not record.active:
        entry.result, entry.returncode = job.result, job.returncode
    return entry


def _guarded(record: Record, what: str, work: Callable[[], None]) -> None:
    """Do a part of the folding; where it fails, all the other parts count."""
    try:
        work()
    except Exception as exc:  # a fault of ours, for some value that was not thought of: it must not cost other jobs
        record.faults.note(what, f"cannot be folded: {type(exc).__name__}: {untrusted.text(str(exc), 200)}")


@functools.lru_cache(maxsize=4096)
def username(userid: int) -> str:
    """Return the user's name, or the number where this machine has none for it."""
    try:
        return pwd.getpwuid(userid).pw_name
    except (KeyError, OverflowError):
        return str(userid)


# ---------------------------------------------------------------------------------------------------- events


def _submit(record: Record, event: Event) -> None:
    record.job.t_submit = event.timestamp


def _validate(record: Record, event: Event) -> None:
    record.job.state, record.job.t_depend = "DEPEND", event.timestamp


def _invalidate(record: Record, event: Event) -> None:
    record.invalid = True


def _depend(record: Record, event: Event) -> None:
    _to_priority(record, event.timestamp)


def _to_priority(record: Record, timestamp: float) -> None:
    record.job.state = "PRIORITY"
    if record.job.t_priority is UNSET:
        record.job.t_priority = timestamp


def _priority(record: Record, event: Event) -> None:
    job = record.job
    job.priority = _of(record, event).whole("priority", 0, high=_HIGHEST_PRIORITY)
    if job.state == "PRIORITY":
        job.state = "SCHED"
        if job.t_sched is UNSET:
            job.t_sched = event.timestamp


def _revert(record: Record, event: Event) -> None:
    """Only SCHED goes back to PRIORITY (RFC 21), to be given a priority anew."""
    if record.job.state == "SCHED":
        _to_priority(record, event.timestamp)


def _urgency(record: Record, event: Event) -> None:
    record.job.urgency = _of(record, event).whole("urgency", record.job.urgency, high=31)
    _revert(record, event)


def _alloc(record: Record, event: Event) -> None:
    record.job.state, record.job.t_run = "RUN", event.timestamp
    if event.context.get("annotations"):
        details.annotate(record, event.context["annotations"])
    if record.R:
        details.from_r(record, record.R)
        record.R = None  # it has told what it had to: a second start would undo what was updated since


def _exception(record: Record, event: Event) -> None:
    _note_exception(record, event.context)
    if record.fatal:
        _to_cleanup(record, event.timestamp)


def _note_exception(record: Record, context: Mapping[str, Any]) -> None:
    told = Members(context, "exception", record.faults)
    # One that is no number ends nothing: where Flux saw a fatal one, the end of the job follows.
    severity = told.whole("severity", 0, high=_LEAST_SEVERE, wrong=_LEAST_SEVERE)
    if record.worst is None or severity < int(record.worst.severity or 0):
        record.worst = ExceptionInfo(True, severity, told.text("type", _TYPE), told.text("note", _NOTE))
    record.fatal = record.fatal or severity == 0


def _to_cleanup(record: Record, timestamp: float) -> None:
    job = record.job
    if job.state not in ("CLEANUP", "INACTIVE"):
        job.state, job.t_cleanup = "CLEANUP", timestamp
        job.runtime = 0.0 if job.t_run is UNSET else max(0.0, timestamp - float(job.t_run))


def _finish(record: Record, event: Event) -> None:
    status = _of(record, event).whole("status", 0, wrong=_NO_STATUS)
    record.job.waitstatus = "" if status == _NO_STATUS else status
    _to_cleanup(record, event.timestamp)


def _clean(record: Record, event: Event) -> None:
    _to_cleanup(record, event.timestamp)
    job = record.job
    job.state, job.t_inactive = "INACTIVE", event.timestamp
    job.success = job.waitstatus == 0 and not record.fatal
    job.result = _result(record)
    job.returncode = _returncode(job)
    job.exception = record.worst or ExceptionInfo(occurred=False)
    job.exception_occurred = bool(record.worst)
    if record.worst:
        job.exception_severity = int(record.worst.severity or 0)
        job.exception_type = record.worst.type
        job.exception_note = record.worst.note


def _result(record: Record) -> Result:
    if record.job.success:
        return "COMPLETED"
    kind = record.worst.type if record.worst else ""
    return "CANCELED" if kind == "cancel" else "TIMEOUT" if kind == "timeout" else "FAILED"


def _returncode(job: Job) -> int | Unset:
    """As flux-jobs(1): the job's exit code, or minus a signal that ended its shell.

    Before anything ran it is -128 of a job that was canceled, 1 of one that failed, and none of one that timed out.
    """
    status = job.waitstatus
    if status == "":
        return -128 if job.result == "CANCELED" else 1 if job.result == "FAILED" else ""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _annotations(record: Record, event: Event) -> None:
    details.annotate(record, event.context.get("annotations") or {})


def _memo(record: Record, event: Event) -> None:
    known = {} if record.job.annotations is UNSET else record.job.annotations
    details.annotate(record, _without_null(_merged(known, {"user": dict(event.context)})))


def _merged(known: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a memo makes of earlier ones (RFC 21): objects are merged, on every level."""
    merged = dict(known)
    for name, value in more.items():
        before = merged.get(name)
        merged[name] = _merged(before if isinstance(before, dict) else {}, value) if isinstance(value, dict) else value
    return merged


def _without_null(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return annotations as job-list keeps them after a memo: null takes away, also what is left without members."""
    found = {name: _without_null(value) if isinstance(value, dict) else value for name, value in known.items()}
    return {name: value for name, value in found.items() if value is not None and value != {}}


def _dependency_add(record: Record, event: Event) -> None:
    known = [] if record.job.dependencies is UNSET else record.job.dependencies
    description = _of(record, event).text("description", _DEPENDENCY)
    if description not in known:
        if len(untrusted.encode([*known, description])) <= _DEPENDENCIES:
            known = [*known, description]
        else:
            record.faults.note("dependency-add", f"more than the {_DEPENDENCIES} bytes of dependencies that are kept")
    record.job.dependencies = known


def _dependency_remove(record: Record, event: Event) -> None:
    if record.job.dependencies is not UNSET:
        description = _of(record, event).text("description", _DEPENDENCY)
        record.job.dependencies = [d for d in record.job.dependencies if d != description]


def _jobspec_update(record: Record, event: Event) -> None:
    spec = msgspec.json.decode(record.jobspec)
    spec = spec if isinstance(spec, dict) else {}
    for path in jobspec.update(spec, event.context):
        record.faults.note("jobspec-update", f"{untrusted.shown(path)} has too many parts")
    record.jobspec = untrusted.encode(spec)
    details.from_jobspec(record, spec)
    _revert(record, event)


def _resource_update(record: Record, event: Event) -> None:
    if "expiration" in event.context:
        expiration = _of(record, event).seconds("expiration")
        record.job.expiration = "" if expiration is None else expiration


def _of(record: Record, event: Event) -> Members:
    return Members(event.context, event.name, record.faults)


_HANDLERS = {
    "submit": _submit,
    "validate": _validate,
    "invalidate": _invalidate,
    "depend": _depend,
    "priority": _priority,
    "urgency": _urgency,
    "alloc": _alloc,
    "finish": _finish,
    "exception": _exception,
    "clean": _clean,
    "annotations": _annotations,
    "memo": _memo,
    "dependency-add": _dependency_add,
    "dependency-remove": _dependency_remove,
    "jobspec-update": _jobspec_update,
    "resource-update": _resource_update,
    "flux-restart": _revert,
}


#: What may still happen to a job that has ended.
_AFTERWARDS = frozenset({"annotations", "memo", "jobspec-update", "resource-update"})
