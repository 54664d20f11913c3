"""The state machine of RFC 21, with the fields that Flux's job-list module derives: one handler per event name."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from sidecar.domain import jobspec, untrusted
from sidecar.domain.members import Members
from sidecar.domain.model import Event, ExceptionInfo, Job, Result, Unset
from sidecar.journal import details
from sidecar.journal.record import Record

_TYPE, _NOTE, _DEPENDENCY = 128, 4096, 1024  # maximum bytes of each
_DEPENDENCIES = 16 * 1024
_LEAST_SEVERE = 7
_INVALID_STATUS = -1
_HIGHEST_PRIORITY = 2**32 - 1


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
    job.priority = _context(record, event).whole("priority", 0, high=_HIGHEST_PRIORITY)
    if job.state == "PRIORITY":
        job.state = "SCHED"
        if job.t_sched is UNSET:
            job.t_sched = event.timestamp


def _revert(record: Record, event: Event) -> None:
    """Return from SCHED to PRIORITY, where the job gets a new priority (RFC 21); other states stay."""
    if record.job.state == "SCHED":
        _to_priority(record, event.timestamp)


def _urgency(record: Record, event: Event) -> None:
    record.job.urgency = _context(record, event).whole("urgency", record.job.urgency, high=31)
    _revert(record, event)


def _alloc(record: Record, event: Event) -> None:
    record.job.state, record.job.t_run = "RUN", event.timestamp
    if event.context.get("annotations"):
        details.set_annotations(record, event.context["annotations"])
    if record.R:
        details.apply_resources(record, record.R)
        record.R = None  # to apply it again would undo later updates


def _exception(record: Record, event: Event) -> None:
    note_exception(record, event.context)
    if record.fatal:
        _to_cleanup(record, event.timestamp)


def note_exception(record: Record, context: Mapping[str, Any]) -> None:
    """Remember the most severe exception, and whether one was fatal.

    A severity that is not a number counts as the least severe: if Flux treats it as fatal, the job's end follows.
    """
    members = Members(context, "exception", record.faults)
    severity = members.whole("severity", 0, high=_LEAST_SEVERE, wrong=_LEAST_SEVERE)
    if record.worst is None or severity < int(record.worst.severity or 0):
        record.worst = ExceptionInfo(True, severity, members.text("type", _TYPE), members.text("note", _NOTE))
    record.fatal = record.fatal or severity == 0


def _to_cleanup(record: Record, timestamp: float) -> None:
    job = record.job
    if job.state not in ("CLEANUP", "INACTIVE"):
        job.state, job.t_cleanup = "CLEANUP", timestamp
        job.runtime = 0.0 if job.t_run is UNSET else max(0.0, timestamp - float(job.t_run))


def _finish(record: Record, event: Event) -> None:
    status = _context(record, event).whole("status", 0, wrong=_INVALID_STATUS)
    record.job.waitstatus = "" if status == _INVALID_STATUS else status
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
    """Return the code that flux-jobs(1) shows: the job's exit code, or minus the signal that ended its shell.

    A job that ended before it ran has -128 if it was canceled, 1 if it failed, and no code if it timed out.
    """
    status = job.waitstatus
    if status == "":
        return -128 if job.result == "CANCELED" else 1 if job.result == "FAILED" else ""
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _annotations(record: Record, event: Event) -> None:
    details.set_annotations(record, event.context.get("annotations") or {})


def _memo(record: Record, event: Event) -> None:
    details.merge_memo(record, event.context)


def _dependency_add(record: Record, event: Event) -> None:
    known = [] if record.job.dependencies is UNSET else record.job.dependencies
    description = _context(record, event).text("description", _DEPENDENCY)
    if description not in known:
        if len(untrusted.encode([*known, description])) <= _DEPENDENCIES:
            known = [*known, description]
        else:
            record.faults.note("dependency-add", f"the dependencies exceed {_DEPENDENCIES} bytes")
    record.job.dependencies = known


def _dependency_remove(record: Record, event: Event) -> None:
    if record.job.dependencies is not UNSET:
        description = _context(record, event).text("description", _DEPENDENCY)
        record.job.dependencies = [each for each in record.job.dependencies if each != description]


def _jobspec_update(record: Record, event: Event) -> None:
    spec = msgspec.json.decode(record.jobspec)
    spec = spec if isinstance(spec, dict) else {}
    for path in jobspec.update(spec, event.context):
        record.faults.note("jobspec-update", f"{untrusted.shown(path)} has too many parts")
    record.jobspec = untrusted.encode(spec)
    details.apply_jobspec(record, spec)
    _revert(record, event)


def _resource_update(record: Record, event: Event) -> None:
    if "expiration" in event.context:
        expiration = _context(record, event).seconds("expiration")
        record.job.expiration = "" if expiration is None else expiration


def _context(record: Record, event: Event) -> Members:
    return Members(event.context, event.name, record.faults)


HANDLERS: dict[str, Callable[[Record, Event], None]] = {
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
AFTER_END = frozenset({"annotations", "memo", "jobspec-update", "resource-update"})
"""Events that are applied after ``clean`` too, if they are in the same response or batch."""
