"""Set the fields that lists show of a job from its jobspec (RFC 14, RFC 25), R (RFC 20) and annotations.

The input may hold any JSON: a value that cannot be read is noted as a fault, and the other fields are still set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from sidecar.domain import idset, jobspec, resource_counts, untrusted
from sidecar.domain.members import Members
from sidecar.journal.record import Record

NAME = 1024
"""Maximum bytes of a name; a longer one is cut, and complete in the jobspec."""
_DIRECTORY, _COMMAND, _LIST, _ANNOTATIONS = 4096, 16 * 1024, 16 * 1024, 16 * 1024
_LARGEST_COUNT = 2**53 - 1  # the largest integer that every JSON parser keeps exact


def set_annotations(record: Record, annotations: Any) -> None:
    """Replace the annotations; if they are too large, the job has none."""
    members = Members(annotations, "annotations", record.faults).values
    size = len(untrusted.encode(members))
    if size > _ANNOTATIONS:
        record.faults.note("annotations", f"{size} bytes exceed the limit of {_ANNOTATIONS}")
    record.job.annotations = dict(members) if members and size <= _ANNOTATIONS else UNSET


def merge_memo(record: Record, memo: Mapping[str, Any]) -> None:
    """Merge a memo into the user annotations, as job-list does: null removes a member, and then empty objects."""
    annotations = {} if record.job.annotations is UNSET else record.job.annotations
    set_annotations(record, _without_null(_merged(annotations, {"user": dict(memo)})))


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two memos (RFC 21): objects are merged on every level, other values are replaced."""
    merged = dict(first)
    for name, value in second.items():
        before = merged.get(name)
        merged[name] = _merged(before if isinstance(before, dict) else {}, value) if isinstance(value, dict) else value
    return merged


def _without_null(members: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: _without_null(value) if isinstance(value, dict) else value for name, value in members.items()}
    return {name: value for name, value in kept.items() if value is not None and value != {}}


def apply_jobspec(record: Record, spec: dict[str, Any]) -> None:
    """Set the fields that follow from the jobspec; those that R has as well only until it is known."""
    job, faults = record.job, record.faults
    system = Members(spec, "jobspec", faults).inner("attributes").inner("system")
    command = jobspec.command(spec)
    if not command:
        faults.note("jobspec.tasks", "no command found")
    job.command = _cut(command)
    program = (os.path.basename(command[0]) or command[0]) if command else ""
    job.name = system.inner("job").text("name", NAME, untrusted.text(program, NAME))
    job.cwd, job.queue = system.text("cwd", _DIRECTORY), system.text("queue", NAME)
    job.project, job.bank = system.text("project", NAME) or UNSET, system.text("bank", NAME) or UNSET
    duration = system.seconds("duration")
    job.duration = duration if duration is not None else "" if "duration" in system.values else 0.0
    _count_resources(record, spec)


def _count_resources(record: Record, spec: dict[str, Any]) -> None:
    """Set the numbers of nodes, tasks and cores that job-list derives from a jobspec."""
    job = record.job
    try:
        request = resource_counts.listed(spec)
    except ValueError as exc:
        record.faults.note("jobspec.resources", str(exc))
        if job.t_run is UNSET:
            job.ntasks = job.nnodes = job.ncores = ""
        return
    job.nnodes = request.nodes or job.nnodes
    try:
        tasks = resource_counts.listed_tasks(spec, request)
    except ValueError as exc:
        record.faults.note("jobspec.per-resource", str(exc))
        return
    if tasks is not None or job.t_run is UNSET:
        job.ntasks = "" if tasks is None else _count(record, tasks)
    if job.t_run is UNSET:
        job.ncores = "" if request.nodes and request.exclusive else _count(record, request.slots * request.cores)


def _cut(words: list[str]) -> list[str]:
    """Return the beginning of a command, as far as lists show it."""
    kept: list[str] = []
    left = _COMMAND
    for word in words:
        if left <= 0:
            return [*kept, "…"]
        kept.append(untrusted.text(word, left))
        left -= untrusted.json_size(kept[-1]) + len('"",')
    return kept


def _count(record: Record, number: int) -> int | Literal[""]:
    if number <= _LARGEST_COUNT:
        return number
    record.faults.note("jobspec.resources", "more than any instance has")
    return ""


def apply_resources(record: Record, resources: dict[str, Any]) -> None:
    """Set ranks, nodes, cores and expiration from R (RFC 20)."""
    job, execution = record.job, Members(resources, "R", record.faults).inner("execution")
    names = [name for name in execution.items("nodelist") if isinstance(name, str)]
    job.nodelist = untrusted.text(",".join(names), _LIST)
    expiration = execution.seconds("expiration")
    job.expiration = expiration if expiration is not None else "" if "expiration" in execution.values else 0.0
    ranks: list[idset.Range] = []
    cores = 0
    for each in execution.items("R_lite"):
        entry = Members(each, "R.R_lite", record.faults)
        entry_ranks = entry.read("rank", "an idset", idset.ranges_of, [])
        ranks += entry_ranks
        cores += idset.size(entry_ranks) * idset.size(
            entry.inner("children").read("core", "an idset", idset.ranges_of, [])
        )
    ranks = idset.union(ranks)
    job.ranks = untrusted.text(idset.write(ranks, brackets=True), _LIST)
    job.nnodes, job.ncores = idset.size(ranks), _count(record, cores)
    if job.ntasks == "" and (per := resource_counts.per_resource(msgspec.json.decode(record.jobspec))):
        job.ntasks = _count(record, (job.nnodes if per.type == "node" else cores) * per.count)
