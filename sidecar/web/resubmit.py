"""Describe a job as a submit request, for submitting it again."""

from __future__ import annotations

import shlex
from typing import Any

from sidecar.domain import jobspec, untrusted
from sidecar.domain.model import DEFAULT_URGENCY, Job

_LONGEST_COMMAND = 16 * 1024  # characters of a request that is shown as a command line


def request_of(job: Job, spec: bytes) -> dict[str, Any]:
    """Return the parameters of a submit that runs the same job again, as far as they are known.

    Args:
        job: the job.
        spec: its jobspec as JSON; has the command where the job's own is cut.
    """
    command = jobspec.command(untrusted.decoded(spec)) or job.command
    request: dict[str, Any] = {"command": command, "name": job.name, "workdir": job.cwd}
    if job.ntasks and job.ntasks != 1:
        request["num_tasks"] = job.ntasks
    if job.queue:
        request["queue"] = job.queue
    if job.duration:
        request["runtime"] = job.duration
    if job.urgency != DEFAULT_URGENCY:
        request["urgency"] = job.urgency
    return {name: value for name, value in request.items() if value not in ("", [])}


def curl_options(request: dict[str, Any]) -> str:
    """Return the options of the curl command that sends a request; empty when it is too long for a command line."""
    body = untrusted.encode(request).decode()
    return f"-X POST -H 'Content-Type: application/json' -d {shlex.quote(body)}" if len(body) < _LONGEST_COMMAND else ""


def form_values(request: dict[str, Any]) -> dict[str, str]:
    """Return a request as the fields of the submit form."""
    fields = {}
    for name, value in request.items():
        if isinstance(value, list):
            fields[name] = shlex.join(value)
        else:
            fields[name] = f"{value:g}" if isinstance(value, float) else str(value)
    return fields
