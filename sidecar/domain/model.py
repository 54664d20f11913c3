"""Types that all packages share: jobs, events, nodes and queues.

Times are Unix seconds, durations are seconds. A field with a type that includes ``""`` has that value while unknown:
the predecessor responded so, and its clients index these fields without a check.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

Unset = Literal[""]

State = Literal["NEW", "DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP", "INACTIVE"]
Result = Literal["COMPLETED", "FAILED", "CANCELED", "TIMEOUT"]

#: RFC 21's states, in order.
STATE_TEXTS = {
    "NEW": "Flux has accepted the job and validates it",
    "DEPEND": "the job waits for its dependencies",
    "PRIORITY": "the job waits for a priority",
    "SCHED": "the job waits for resources; a job with urgency 0 is held",
    "RUN": "the job has its resources and runs",
    "CLEANUP": "the tasks have ended; the resources are being released",
    "INACTIVE": "the job has ended; see result",
}
RESULT_TEXTS = {
    "COMPLETED": "every task has ended with exit code 0",
    "FAILED": "a task has failed, or the job could not run; see returncode and exception",
    "CANCELED": "the job was cancelled; exception.note has the reason",
    "TIMEOUT": "the job has reached its time limit",
}

STATES: tuple[str, ...] = ("NEW", "DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP", "INACTIVE")
PENDING = STATES[:4]
"""States of a job before it runs."""
ACTIVE = STATES[:-1]
"""States of a job that has not ended."""
RESULTS: tuple[str, ...] = ("COMPLETED", "FAILED", "CANCELED", "TIMEOUT")

#: Named urgencies of flux-job-urgency(1).
URGENCIES = {"hold": 0, "default": 16, "expedite": 31}
DEFAULT_URGENCY = URGENCIES["default"]
HIGHEST_URGENCY = URGENCIES["expedite"]

ANONYMOUS = "default"
"""Name of the only queue of an instance without named queues."""


class Event(Struct, omit_defaults=True):
    """An entry of a job's eventlog (RFC 18, RFC 21)."""

    timestamp: Annotated[float, Meta(description="time of the event (Unix time)")]
    name: Annotated[str, Meta(description="name of the event, such as submit, alloc, start, finish or exception")]
    context: Annotated[dict[str, Any], Meta(description="details of the event; their names depend on its name")] = {}


class Entry(Event, omit_defaults=True):
    """An entry of a job's eventlog, and the state of the job after it."""

    state: Annotated[State | Unset, Meta(description="state of the job after the event, if it has changed")] = ""
    result: Annotated[Result | Unset, Meta(description="result of the job, if it has ended with the event")] = ""
    returncode: Annotated[int | Unset, Meta(description="return code of the job, if it has ended with the event")] = ""


class JobEvents(Struct):
    """A message of the job manager's journal: events of one job, with its jobspec and R where they belong.

    A message with the ``id`` -1 and no events ends the history; each message after it has one live event.
    """

    id: int
    events: list[Event]
    jobspec: dict[str, Any] | None = None
    R: dict[str, Any] | None = None
    faults: dict[str, str] = {}
    """Values of the message that are not valid: an example by the kind of fault."""


class JournalBegin(Struct):
    """The start of the journal: the eventlogs of jobs follow, up to the events with the id -1.

    ``identity`` identifies the instance; it stays the same when the instance restarts.
    """

    identity: str


class ExceptionInfo(Struct):
    """The most severe exception of a job; its fields are ``""`` until the job has ended."""

    occurred: Annotated[bool | Unset, Meta(description="whether the job has an exception")] = ""
    severity: Annotated[int | Unset, Meta(description="severity: 0 has ended the job, 1 to 7 have not")] = ""
    type: Annotated[str, Meta(description="type of the exception, such as cancel, exec or timeout")] = ""
    note: Annotated[str, Meta(description="text of the exception")] = ""


class Job(Struct, kw_only=True):
    """A job, with every field of the predecessor's ``GET /v1/jobs/{id}``."""

    id: Annotated[int, Meta(ge=0, description="job ID; may exceed 2^53")]
    f58id: Annotated[str, Meta(description="job ID in F58 encoding, for browsers and other clients without 64 bits")]
    userid: Annotated[int, Meta(description="uid of the job's owner in Flux")]
    username: Annotated[str, Meta(description="user name of the job's owner")]
    submitter: Annotated[
        str, Meta(description="name of the caller that submitted the job through this server; otherwise empty")
    ]
    urgency: Annotated[int, Meta(ge=0, le=HIGHEST_URGENCY, description="0: held; 16: default; 31: before all others")]
    priority: Annotated[
        int | Unset, Meta(description="priority that Flux derives from the urgency; higher ones are scheduled first")
    ] = ""
    state: Annotated[State, Meta(description="current state of the job; see below")]
    result: Annotated[Result | Unset, Meta(description="result of a job that has ended; see below")] = ""
    returncode: Annotated[
        int | Unset,
        Meta(
            description="highest exit code of the tasks; 128 + N for a task that was ended by signal N (137: SIGKILL); "
            "-N: signal N has ended the job's shell; -128: cancelled before it ran; 1: also failed before it ran"
        ),
    ] = ""
    waitstatus: Annotated[
        int | Unset, Meta(description="highest wait status of the tasks, in the encoding of wait(2)")
    ] = ""
    success: Annotated[
        bool | UnsetType, Meta(description="whether the result is COMPLETED; absent until the job has ended")
    ] = UNSET
    name: Annotated[str, Meta(description="name of the job, truncated after 1024 bytes; the jobspec has all of it")]
    command: Annotated[
        list[str], Meta(description="command of the job, truncated after 16 KiB; the jobspec has all of it")
    ]
    cwd: Annotated[str, Meta(description="working directory")]
    queue: Annotated[str, Meta(description="queue of the job; empty in an instance without named queues")]
    project: Annotated[str | UnsetType, Meta(description="project, for accounting")] = UNSET
    bank: Annotated[str | UnsetType, Meta(description="bank, for accounting")] = UNSET
    ntasks: Annotated[int | Unset, Meta(description="number of tasks")] = ""
    ncores: Annotated[int | Unset, Meta(description="number of cores: requested, and allocated once the job runs")] = ""
    nnodes: Annotated[int | Unset, Meta(description="number of nodes")] = ""
    ranks: Annotated[str, Meta(description="ranks of the brokers that run the job, as an idset such as 0-3,7")] = ""
    nodelist: Annotated[str, Meta(description="nodes that run the job, as a hostlist such as node[0-3]")] = ""
    duration: Annotated[float | Unset, Meta(description="time limit in seconds; 0: unlimited")] = ""
    expiration: Annotated[float | Unset, Meta(description="end of the time limit (Unix time); 0: unlimited")] = ""
    t_submit: Annotated[float, Meta(description="time of the submit (Unix time)")]
    t_depend: Annotated[float | UnsetType, Meta(description="start of DEPEND (Unix time)")] = UNSET
    t_priority: Annotated[float | UnsetType, Meta(description="start of PRIORITY (Unix time)")] = UNSET
    t_sched: Annotated[float | UnsetType, Meta(description="start of SCHED (Unix time)")] = UNSET
    t_run: Annotated[float | UnsetType, Meta(description="start of RUN (Unix time)")] = UNSET
    t_cleanup: Annotated[float | UnsetType, Meta(description="start of CLEANUP (Unix time)")] = UNSET
    t_inactive: Annotated[float | UnsetType, Meta(description="end of the job (Unix time)")] = UNSET
    dependencies: Annotated[
        list[str] | UnsetType, Meta(description="dependencies that the job waits for in DEPEND")
    ] = UNSET
    annotations: Annotated[
        dict[str, Any] | UnsetType,
        Meta(description="annotations of the scheduler and of users (RFC 27); memos are under user"),
    ] = UNSET
    exception: Annotated[ExceptionInfo, Meta(description="most severe exception, once the job has ended")] = field(
        default_factory=ExceptionInfo
    )
    exception_occurred: Annotated[bool | UnsetType, Meta(description="same as exception.occurred")] = UNSET
    exception_severity: Annotated[int | UnsetType, Meta(description="same as exception.severity")] = UNSET
    exception_type: Annotated[str | UnsetType, Meta(description="same as exception.type")] = UNSET
    exception_note: Annotated[str | UnsetType, Meta(description="same as exception.note")] = UNSET
    runtime: Annotated[
        float | UnsetType,
        Meta(description="seconds in RUN, up to now or in total; 0 before. The time limit is duration"),
    ] = 0.0


class Brief(Struct):
    """A job in a list without details."""

    id: Annotated[int, Meta(description="job ID; may exceed 2^53")]
    f58id: Annotated[str, Meta(description="job ID in F58 encoding")]
    state: Annotated[str, Meta(description="current state of the job")]
    result: Annotated[str, Meta(description="result of a job that has ended; otherwise empty")]
    name: Annotated[str, Meta(description="name of the job")]


class Node(Struct, omit_defaults=False):
    """A node of the instance."""

    name: Annotated[str, Meta(description="host name")]
    rank: Annotated[int, Meta(description="rank of its broker")]
    state: Annotated[
        Literal["down", "drained", "allocated", "free"],
        Meta(
            description="down: broker offline; drained: no job starts on it; allocated: a job runs on it; free: no job"
        ),
    ]
    up: Annotated[bool, Meta(description="whether its broker is online")]
    cores: Annotated[int, Meta(description="number of cores")]
    cores_allocated: Annotated[int, Meta(description="number of cores that jobs use")]
    gpus: Annotated[int, Meta(description="number of GPUs")]
    gpus_allocated: Annotated[int, Meta(description="number of GPUs that jobs use")]
    reason: Annotated[str, Meta(description="why it is drained")] = ""


class Resources(Struct):
    """All nodes, and the time of this information (Unix time)."""

    nodes: list[Node]
    updated: float = 0.0
    lost: frozenset[int] = frozenset()
    """Ranks of nodes that the scheduler has removed."""


class Queue(Struct, kw_only=True):
    """A queue of the instance."""

    name: Annotated[str, Meta(description="name of the queue")]
    enabled: Annotated[bool, Meta(description="whether jobs may be submitted to it")]
    enabled_reason: Annotated[str, Meta(description="why it is disabled")] = ""
    started: Annotated[bool, Meta(description="whether its pending jobs are started")]
    started_reason: Annotated[str, Meta(description="why it is stopped")] = ""
    default: Annotated[bool, Meta(description="whether jobs without a queue go to it")]


class Queues(Struct):
    """All queues, and the time of this information (Unix time).

    ``anonymous``: the instance has no named queues; its only queue is listed as :data:`ANONYMOUS`.
    """

    queues: list[Queue]
    updated: float = 0.0
    anonymous: bool = False


class Environment(Struct):
    """What a job inherits: the environment and the working directory of the broker."""

    variables: dict[str, str]
    cwd: str
