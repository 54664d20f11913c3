"""Jobs as clients of flux-rest-server request them: the arguments of ``flux.job.JobspecV1.from_command``."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from sidecar.domain.durations import AS_TEXT
from sidecar.domain.job_request import JobContext, JobRequest
from sidecar.domain.model import Environment
from sidecar.domain.parameters import parse_envars
from sidecar.domain.untrusted import COUNT

_NOT_FILES = ("none", "kvs")  # values of output and error with which Flux keeps the output
_BATCH_TIMEOUT = 0.05  # seconds, of unbuffered output

_Path = Annotated[str, Meta(min_length=1, max_length=4096)]
_Name = Annotated[str, Meta(min_length=1, max_length=1000)]
_Limit = Annotated[int, Meta(ge=-1, le=2**63 - 1)]


class RestJob(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to run. null is the same as an absent field."""

    command: Annotated[
        list[str],
        Meta(
            min_length=1,
            description="command: a list of words",
            extra={"members": 100_000, "fault": "'command' must be a non-empty list of strings"},
        ),
    ]
    num_tasks: Annotated[int, Meta(ge=1, le=COUNT, description="number of tasks; default: 1")] | None = None
    cores_per_task: Annotated[int, Meta(ge=1, le=COUNT, description="cores for each task; default: 1")] | None = None
    gpus_per_task: Annotated[int, Meta(ge=0, le=COUNT, description="GPUs for each task; default: 0")] | None = None
    num_nodes: (
        Annotated[int, Meta(ge=1, le=COUNT, description="number of nodes to spread the tasks over; at most num_tasks")]
        | None
    ) = None
    exclusive: Annotated[bool | None, Meta(description="allocate whole nodes; needs num_nodes")] = None
    duration: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=10**10,
                description=f"time limit in seconds, {AS_TEXT}; 0: unlimited",
                extra={"duration": True},
            ),
        ]
        | None
    ) = None
    environment: Annotated[
        dict[str, str] | None,
        Meta(description="whole environment of the job; default: HOME, USER, LOGNAME, SHELL and PATH"),
    ] = None
    env_expand: Annotated[
        dict[str, str] | None, Meta(description="variables with mustache templates that the job's shell expands")
    ] = None
    cwd: Annotated[_Path | None, Meta(description="working directory; default: home of the job's user")] = None
    rlimits: Annotated[
        dict[str, _Limit] | None, Meta(description="resource limits by name, such as nofile; -1: unlimited")
    ] = None
    name: Annotated[_Name | None, Meta(description="name of the job; default: that of the program")] = None
    queue: Annotated[_Name | None, Meta(description="queue; default: the instance's default queue")] = None
    bank: Annotated[_Name | None, Meta(description="bank, for accounting")] = None
    input: Annotated[_Path | None, Meta(description="file that is the standard input; default: /dev/null")] = None
    output: Annotated[
        _Path | None, Meta(description="file for the standard output; none or kvs: Flux keeps the output")
    ] = None
    error: Annotated[
        _Path | None, Meta(description="file for the standard error; none or kvs: as absent; default: that of output")
    ] = None
    label_io: Annotated[bool | None, Meta(description="label each line of such a file with its task")] = None
    unbuffered: Annotated[bool | None, Meta(description="write output as soon as it is there")] = None


def translated(job: RestJob) -> JobRequest:
    """Return the request of this server's own dialect, without environment, directory and bank.

    Unlike there, the number of tasks does not follow from the number of nodes.
    """
    return JobRequest(
        command=job.command,
        num_tasks=job.num_tasks or 1,
        cores_per_task=job.cores_per_task,
        gpus_per_task=job.gpus_per_task,
        num_nodes=job.num_nodes,
        exclusive=job.exclusive,
        runtime=job.duration,
        option_flags=_shell_options(job),
        name=job.name,
        queue=job.queue,
    )


def context(job: RestJob, default: Environment) -> JobContext:
    """Return the environment, the directory and the bank of a job.

    Args:
        job: its own environment and directory take precedence.
        default: the environment and directory of jobs that have none of their own.

    Raises:
        InvalidRequest: a name in the environment is not that of a variable.
    """
    variables = default.variables if job.environment is None else parse_envars(job.environment, "environment")
    return JobContext(environment=Environment(variables, job.cwd or default.cwd), bank=job.bank or "", sent=job)


def _shell_options(job: RestJob) -> dict[str, Any]:
    """Return the shell options by which ``from_command`` expresses its other arguments."""
    options: dict[str, Any] = {}
    if job.env_expand is not None:
        options["env-expand"] = job.env_expand
    if job.rlimits is not None:
        options["rlimit"] = job.rlimits
    if job.input is not None:
        options["input.stdin"] = {"type": "file", "path": job.input}
    for stream, path in (("stdout", job.output), ("stderr", job.error)):
        if path is not None and path not in _NOT_FILES:
            label = {"label": True} if job.label_io else {}
            options[f"output.{stream}"] = {"type": "file", "path": path, **label}
    if job.unbuffered:
        for stream in ("stdout", "stderr"):
            options[f"output.{stream}.buffer"] = {"type": "none"}
        options |= {"output.batch-timeout": _BATCH_TIMEOUT, "input.batch-timeout": 0.0}
    return options
