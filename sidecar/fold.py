"""A job's state from its events: the state machine of RFC 21, and the fields of Flux's job-list module.

:func:`apply` folds one event into a :class:`Record`. The same eventlog always gives the same job, live, from the
journal's history or after a restart; nothing else in this package decides what state a job is in.
"""

from __future__ import annotations

import functools
import os
import pwd
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import UNSET

from sidecar import fluid, idset, jobspec
from sidecar.model import Entry, Event, ExceptionInfo, Job, JobEvents, Result
from sidecar.tally import Kind

_PENDING = ("NEW", "DEPEND", "PRIORITY", "SCHED")


class Record(msgspec.Struct):
    """A job, and what is needed to fold its next event."""

    job: Job
    jobspec: dict[str, Any]
    nevents: int = 0
    R: dict[str, Any] | None = None
    fatal: bool = False
    worst: ExceptionInfo | None = None
    invalid: bool = False
    counted: Kind | None = None
    """What it was counted as last; None while it was not."""
    written: tuple[str, bytes] = ("", b"")
    """What the store holds of it that seldom changes: the text that is searched, and the jobspec."""

    @property
    def active(self) -> bool:
        """Whether the job may still change."""
        return self.job.state != "INACTIVE"


def new(events: JobEvents) -> Record | None:
    """Start a record from a response that holds the submit event; None when it does not."""
    if not events.events or events.events[0].name != "submit":
        return None
    first, spec = events.events[0], events.jobspec or {}
    userid = int(first.context.get("userid", -1))
    job = Job(
        id=events.id,
        f58id=fluid.f58(events.id),
        userid=userid,
        username=username(userid),
        submitter=jobspec.submitter(spec),
        urgency=int(first.context.get("urgency", 16)),
        state="NEW",
        name="",
        command=[],
        cwd="",
        queue="",
        t_submit=first.timestamp,
    )
    record = Record(job, spec)
    _from_jobspec(record)
    return record


def again(job: Job, spec: dict[str, Any], nevents: int, exceptions: Iterable[Mapping[str, Any]]) -> Record:
    """Make the record of a job anew from what the store keeps of it, to go on where it was left.

    Args:
        job: the job.
        spec: its jobspec, with all updates so far.
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
    if events.R is not None:
        record.R = events.R
    return [entry for event in events.events if (entry := apply(record, event))]


def apply(record: Record, event: Event) -> Entry | None:
    """Fold one event. Unknown events count, and change nothing (RFC 18 lets anybody add some).

    Returns:
        The event as an entry of the job's eventlog; None for what only the live journal tells (``annotations``).
    """
    handler = _HANDLERS.get(event.name)
    if handler and (record.active or event.name in _AFTERWARDS):
        handler(record, event)
    if event.name == "annotations":
        return None
    record.nevents += 1
    job = record.job
    entry = Entry(event.timestamp, event.name, event.context, job.state)
    if not record.active:
        entry.result, entry.returncode = job.result, job.returncode
    return entry


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
    job.priority = int(event.context.get("priority", 0))
    if job.state == "PRIORITY":
        job.state = "SCHED"
        if job.t_sched is UNSET:
            job.t_sched = event.timestamp


def _revert(record: Record, event: Event) -> None:
    """Only SCHED goes back to PRIORITY (RFC 21), to be given a priority anew."""
    if record.job.state == "SCHED":
        _to_priority(record, event.timestamp)


def _urgency(record: Record, event: Event) -> None:
    record.job.urgency = int(event.context.get("urgency", record.job.urgency))
    _revert(record, event)


def _alloc(record: Record, event: Event) -> None:
    record.job.state, record.job.t_run = "RUN", event.timestamp
    annotations = event.context.get("annotations")
    if annotations:
        record.job.annotations = annotations
    if record.R:
        _from_r(record)


def _exception(record: Record, event: Event) -> None:
    _note_exception(record, event.context)
    if record.fatal:
        _to_cleanup(record, event.timestamp)


def _note_exception(record: Record, context: Mapping[str, Any]) -> None:
    severity = int(context.get("severity", 0))
    if record.worst is None or severity < int(record.worst.severity or 0):
        record.worst = ExceptionInfo(True, severity, str(context.get("type", "")), str(context.get("note", "")))
    record.fatal = record.fatal or severity == 0


def _to_cleanup(record: Record, timestamp: float) -> None:
    job = record.job
    if job.state not in ("CLEANUP", "INACTIVE"):
        job.state, job.t_cleanup = "CLEANUP", timestamp
        job.runtime = 0.0 if job.t_run is UNSET else max(0.0, timestamp - float(job.t_run))


def _finish(record: Record, event: Event) -> None:
    record.job.waitstatus = int(event.context.get("status", 0))
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


def _returncode(job: Job) -> int:
    """As flux-jobs(1): the exit code, or minus the signal; -128 canceled and 1 failed before anything ran."""
    status = job.waitstatus
    if status == "":
        return -128 if job.result == "CANCELED" else 1
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _annotations(record: Record, event: Event) -> None:
    record.job.annotations = event.context.get("annotations") or UNSET


def _memo(record: Record, event: Event) -> None:
    annotations = {} if record.job.annotations is UNSET else record.job.annotations
    user = {**annotations.get("user", {}), **event.context}
    annotations["user"] = {key: value for key, value in user.items() if value is not None}
    record.job.annotations = annotations


def _dependency_add(record: Record, event: Event) -> None:
    known = [] if record.job.dependencies is UNSET else record.job.dependencies
    description = str(event.context.get("description", ""))
    record.job.dependencies = known if description in known else [*known, description]


def _dependency_remove(record: Record, event: Event) -> None:
    if record.job.dependencies is not UNSET:
        description = event.context.get("description")
        record.job.dependencies = [d for d in record.job.dependencies if d != description]


def _jobspec_update(record: Record, event: Event) -> None:
    jobspec.update(record.jobspec, event.context)
    _from_jobspec(record)
    _revert(record, event)


def _resource_update(record: Record, event: Event) -> None:
    if "expiration" in event.context:
        record.job.expiration = float(event.context["expiration"])


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


#: What may still be told of a job that has ended.
_AFTERWARDS = frozenset({"annotations", "memo", "jobspec-update", "resource-update"})


# --------------------------------------------------------------------------------------- jobspec and R to fields


def _from_jobspec(record: Record) -> None:
    job, spec = record.job, record.jobspec
    system = jobspec.get(spec, "attributes.system") or {}
    job.command = jobspec.command(spec)
    job.name = str(jobspec.get(system, "job.name") or os.path.basename(job.command[0] if job.command else ""))
    job.cwd = str(system.get("cwd") or "")
    job.queue = str(system.get("queue") or "")
    job.project = system.get("project", UNSET)
    job.bank = system.get("bank", UNSET)
    job.duration = float(system.get("duration") or 0)
    want = jobspec.counts(spec)
    if want:
        job.ntasks = "" if want.tasks is None else want.tasks
        job.nnodes = want.nodes or job.nnodes
        if not want.exclusive and job.t_run is UNSET:
            job.ncores = want.total_slots * want.cores


def _from_r(record: Record) -> None:
    """Ranks, nodes, cores and the end of the time limit, from R (RFC 20)."""
    job, execution = record.job, (record.R or {}).get("execution", {})
    ranks: set[int] = set()
    cores = 0
    for entry in execution.get("R_lite", []):
        ids = idset.parse(str(entry["rank"]))
        ranks.update(ids)
        cores += len(ids) * len(idset.parse(str(entry.get("children", {}).get("core", ""))))
    job.ranks = idset.encode(ranks, brackets=True)
    job.nnodes, job.ncores = len(ranks), cores
    job.nodelist = ",".join(execution.get("nodelist", []))
    job.expiration = float(execution.get("expiration") or 0.0)
    per_resource = jobspec.get(record.jobspec, "attributes.system.shell.options.per-resource") or {}
    if job.ntasks == "" and isinstance(per_resource, dict):
        unit = job.nnodes if per_resource.get("type") == "node" else cores
        job.ntasks = unit * int(per_resource.get("count", 1))
