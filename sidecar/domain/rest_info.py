"""Jobs as flux-rest-server shows them: the members of ``flux.job.info.JobInfo.to_dict()``."""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from sidecar.domain import fluid
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.model import Job, Result, State
from sidecar.domain.untrusted import shown

_Time = Annotated[float, Meta(description="Unix time")]


class RestException(msgspec.Struct, omit_defaults=True):
    """The most severe exception of a job that has ended."""

    occurred: Annotated[bool, Meta(description="whether the job has an exception; if not, this is the only member")]
    severity: Annotated[int | UnsetType, Meta(description="severity: 0 has ended the job")] = UNSET
    type: Annotated[str | UnsetType, Meta(description="type of the exception, such as cancel or exec")] = UNSET
    note: Annotated[str | UnsetType, Meta(description="text of the exception")] = UNSET


class RestInfo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A job. What is not known yet, or was not asked for, is left out."""

    id: Annotated[str, Meta(description="job ID as F58 with an ASCII prefix, such as f2oUvBnNfh")]
    userid: Annotated[int | UnsetType, Meta(description="uid of the job's owner in Flux")] = UNSET
    username: Annotated[str | UnsetType, Meta(description="name of that user")] = UNSET
    urgency: Annotated[int | UnsetType, Meta(description="urgency, 0 to 31")] = UNSET
    priority: Annotated[int | UnsetType, Meta(description="priority")] = UNSET
    state: Annotated[State | UnsetType, Meta(description="state of the job")] = UNSET
    result: Annotated[Result | UnsetType, Meta(description="result of a job that has ended")] = UNSET
    status: Annotated[str | UnsetType, Meta(description="result of a job that has ended; of others the state")] = UNSET
    success: Annotated[bool | UnsetType, Meta(description="whether the result is COMPLETED")] = UNSET
    waitstatus: Annotated[int | UnsetType, Meta(description="highest wait status of the tasks, as of wait(2)")] = UNSET
    returncode: Annotated[int | UnsetType, Meta(description="return code, as flux-jobs(1) shows it")] = UNSET
    name: Annotated[str | UnsetType, Meta(description="name of the job")] = UNSET
    cwd: Annotated[str | UnsetType, Meta(description="working directory")] = UNSET
    queue: Annotated[str | UnsetType, Meta(description="queue")] = UNSET
    project: Annotated[str | UnsetType, Meta(description="project, for accounting")] = UNSET
    bank: Annotated[str | UnsetType, Meta(description="bank, for accounting")] = UNSET
    ntasks: Annotated[int | UnsetType, Meta(description="number of tasks")] = UNSET
    ncores: Annotated[int | UnsetType, Meta(description="number of cores")] = UNSET
    nnodes: Annotated[int | UnsetType, Meta(description="number of nodes")] = UNSET
    ranks: Annotated[str | UnsetType, Meta(description="ranks of the brokers that run the job, as an idset")] = UNSET
    nodelist: Annotated[str | UnsetType, Meta(description="nodes that run the job, as a hostlist")] = UNSET
    duration: Annotated[float | UnsetType, Meta(description="time limit in seconds; 0: unlimited")] = UNSET
    expiration: Annotated[float | UnsetType, Meta(description="end of the time limit (Unix time)")] = UNSET
    runtime: Annotated[float | UnsetType, Meta(description="seconds in RUN, up to now or in total")] = UNSET
    t_remaining: Annotated[float | UnsetType, Meta(description="seconds to the expiration of a running job")] = UNSET
    t_submit: _Time | UnsetType = UNSET
    t_depend: _Time | UnsetType = UNSET
    t_priority: _Time | UnsetType = UNSET
    t_sched: _Time | UnsetType = UNSET
    t_run: _Time | UnsetType = UNSET
    t_cleanup: _Time | UnsetType = UNSET
    t_inactive: _Time | UnsetType = UNSET
    dependencies: Annotated[list[str] | UnsetType, Meta(description="dependencies that the job waits for")] = UNSET
    annotations: Annotated[dict[str, Any] | UnsetType, Meta(description="annotations (RFC 27)")] = UNSET
    uri: Annotated[str | UnsetType, Meta(description="URI of the Flux instance that the job is")] = UNSET
    exception: Annotated[
        RestException | UnsetType, Meta(description="most severe exception, once the job has ended")
    ] = UNSET


_EXCEPTION = "exception"
_EXCEPTIONS = tuple(f"exception_{name}" for name in RestException.__struct_fields__)
_ALL = "all"
ATTRIBUTES = frozenset({*RestInfo.__struct_fields__, *_EXCEPTIONS, _ALL})
"""What ``attrs`` may name."""

#: Members that are taken from the job as they are: left out if "", or if 0 where that stands for unknown.
_PLAIN = (
    "userid", "username", "urgency", "priority", "state", "result", "success", "waitstatus", "name", "cwd", "queue",
    "project", "bank", "ntasks", "ncores", "nnodes", "ranks", "nodelist", "duration",
)  # fmt: skip
_TIMES = ("expiration", "t_submit", "t_depend", "t_priority", "t_sched", "t_run", "t_cleanup", "t_inactive")


def parse_attributes(text: str) -> frozenset[str]:
    """Return the members that ``attrs`` selects, a list separated by commas; all of them if it is empty.

    Raises:
        InvalidRequest: one is unknown.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in ATTRIBUTES:
            known = ", ".join(sorted(ATTRIBUTES))
            raise InvalidRequest(f"attrs: unknown attribute {shown(name)}; use {known}.")
    if not names or _ALL in names:
        return frozenset(RestInfo.__struct_fields__)
    return frozenset(_EXCEPTION if name in _EXCEPTIONS else name for name in names)


def describe(job: Job, attributes: frozenset[str], now: float) -> RestInfo:
    """Return the description of a job.

    Args:
        job: the job.
        attributes: the members to include.
        now: Unix time, up to which a running job has run.
    """
    members: dict[str, Any] = {name: value for name in _PLAIN if (value := getattr(job, name)) not in ("", UNSET)}
    members |= {name: value for name in _TIMES if (value := getattr(job, name)) not in ("", UNSET, 0.0)}
    members["status"] = job.result if job.state == "INACTIVE" else job.state
    members["dependencies"] = [] if job.dependencies is UNSET else job.dependencies
    members["exception"] = _exception(job)
    members |= _returncode(job) | _times_left(job, members, now) | _annotations(job)
    included = {name: value for name, value in members.items() if name in attributes}
    return RestInfo(id=fluid.f58_ascii(job.id), **included)


def _exception(job: Job) -> RestException:
    found = job.exception
    if not found.occurred:
        return RestException(occurred=False)
    severity = UNSET if found.severity == "" else found.severity
    return RestException(occurred=True, severity=severity, type=found.type, note=found.note)


def _returncode(job: Job) -> dict[str, int]:
    """Return the return code as soon as all tasks have ended, which is before the job has."""
    status = job.waitstatus
    if isinstance(status, int):
        return {"returncode": -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)}
    return {"returncode": job.returncode} if isinstance(job.returncode, int) else {}


def _times_left(job: Job, members: dict[str, Any], now: float) -> dict[str, float]:
    """Return how long the job has run, and how long it may still run."""
    started, ended = members.get("t_run", 0.0), members.get("t_cleanup", 0.0)
    times = {
        "runtime": (ended or now) - started if started else 0.0,
        "t_remaining": members.get("expiration", 0.0) - now if job.state == "RUN" else 0.0,
    }
    return {name: seconds for name, seconds in times.items() if seconds > 0}


def _annotations(job: Job) -> dict[str, Any]:
    """Return the annotations; the URI of an instance is a member of its own."""
    annotations = {} if job.annotations is UNSET else dict(job.annotations)
    user = annotations.get("user")
    if not isinstance(user, dict) or not isinstance(user.get("uri"), str) or not user["uri"]:
        return {"annotations": annotations}
    rest = {name: value for name, value in user.items() if name != "uri"}
    annotations = {name: value for name, value in annotations.items() if name != "user"}
    return {"annotations": {**annotations, "user": rest} if rest else annotations, "uri": user["uri"]}
