"""What a list shows of a job, from its jobspec (RFC 14, RFC 25), R (RFC 20) and annotations, whatever these hold."""

from __future__ import annotations

import os
from typing import Any, Literal

import msgspec
from msgspec import UNSET

from sidecar.domain import idset, jobspec, untrusted
from sidecar.domain import resource_counts as counts
from sidecar.domain.untrusted import Members
from sidecar.journal.record import Record

#: The most bytes of a name; what is longer is cut, and whole in the jobspec.
NAME = 1024
_DIRECTORY, _COMMAND, _LIST, _ANNOTATIONS = 4096, 16 * 1024, 16 * 1024, 16 * 1024
_LARGEST_COUNT = 2**53 - 1  # what every reader of JSON can hold


def annotate(record: Record, annotations: Any) -> None:
    """Take annotations; too many of them cost them all, and nothing else."""
    known = Members(annotations, "annotations", record.faults).values
    size = len(untrusted.encode(known))
    if size > _ANNOTATIONS:
        record.faults.note("annotations", f"{size} bytes are more than the {_ANNOTATIONS} that are kept")
    record.job.annotations = dict(known) if known and size <= _ANNOTATIONS else UNSET


def from_jobspec(record: Record, spec: dict[str, Any]) -> None:
    """Take what a jobspec says; once the job has its resources, R says how many these are."""
    job, faults = record.job, record.faults
    system = Members(spec, "jobspec", faults).inner("attributes").inner("system")
    words = jobspec.command(spec)
    if not words:
        faults.note("jobspec.tasks", "no command can be read")
    job.command = _cut(words)
    program = (os.path.basename(words[0]) or words[0]) if words else ""
    job.name = system.inner("job").text("name", NAME, untrusted.text(program, NAME))
    job.cwd, job.queue = system.text("cwd", _DIRECTORY), system.text("queue", NAME)
    job.project, job.bank = system.text("project", NAME) or UNSET, system.text("bank", NAME) or UNSET
    duration = system.seconds("duration")
    job.duration = duration if duration is not None else "" if "duration" in system.values else 0.0
    _count_resources(record, spec)


def _count_resources(record: Record, spec: dict[str, Any]) -> None:
    """Take nodes, tasks and cores of a jobspec, each as far as Flux's job-list does."""
    job = record.job
    try:
        want = counts.listed(spec)
    except ValueError as exc:
        record.faults.note("jobspec.resources", str(exc))
        if job.t_run is UNSET:
            job.ntasks = job.nnodes = job.ncores = ""
        return
    job.nnodes = want.nodes or job.nnodes
    try:
        tasks = counts.listed_tasks(spec, want)
    except ValueError as exc:
        record.faults.note("jobspec.per-resource", str(exc))
        return
    if tasks is not None or job.t_run is UNSET:
        job.ntasks = "" if tasks is None else _count(record, tasks)
    if job.t_run is UNSET:
        job.ncores = "" if want.nodes and want.exclusive else _count(record, want.slots * want.cores)


def _cut(words: list[str]) -> list[str]:
    """Return so much of a command as a list of jobs shows."""
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
    record.faults.note("jobspec.resources", "no instance has so many")
    return ""


def from_r(record: Record, resources: dict[str, Any]) -> None:
    """Ranks, nodes, cores and the end of the time limit, from R (RFC 20)."""
    job, execution = record.job, Members(resources, "R", record.faults).inner("execution")
    names = [name for name in execution.items("nodelist") if isinstance(name, str)]
    job.nodelist = untrusted.text(",".join(names), _LIST)
    expiration = execution.seconds("expiration")
    job.expiration = expiration if expiration is not None else "" if "expiration" in execution.values else 0.0
    ranks: list[idset.Range] = []
    cores = 0
    for each in execution.items("R_lite"):
        entry = Members(each, "R.R_lite", record.faults)
        of = entry.read("rank", "an idset", idset.ranges_of, [])
        ranks += of
        cores += idset.size(of) * idset.size(entry.inner("children").read("core", "an idset", idset.ranges_of, []))
    ranks = idset.union(ranks)
    job.ranks = untrusted.text(idset.write(ranks, brackets=True), _LIST)
    job.nnodes, job.ncores = idset.size(ranks), _count(record, cores)
    if job.ntasks == "" and (per := counts.per_resource(msgspec.json.decode(record.jobspec))):
        job.ntasks = _count(record, (job.nnodes if per.type == "node" else cores) * per.count)
