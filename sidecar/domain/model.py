"""The words that everything else speaks: jobs, events, requests, nodes.

Times are Unix seconds, durations are seconds. A field whose type admits ``""`` holds that when there is no value
yet: the predecessor answered so, and its clients index these fields without asking.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

Unset = Literal[""]

State = Literal["NEW", "DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP", "INACTIVE"]
Result = Literal["COMPLETED", "FAILED", "CANCELED", "TIMEOUT"]

#: RFC 21's states, in order, and what a job in them is waiting for.
STATE_TEXTS = {
    "NEW": "Flux has accepted it, and is validating it",
    "DEPEND": "waits for its dependencies",
    "PRIORITY": "waits for a priority",
    "SCHED": "waits for resources; one with the urgency 0 is held",
    "RUN": "has its resources; its tasks run",
    "CLEANUP": "its tasks have ended; its resources are being released",
    "INACTIVE": "has ended: result says how",
}
RESULT_TEXTS = {
    "COMPLETED": "every task has ended with the exit code 0",
    "FAILED": "a task has ended with another one, or the job could not run; returncode and exception say why",
    "CANCELED": "it was cancelled; exception.note holds the reason",
    "TIMEOUT": "it reached its time limit",
}

STATES: tuple[str, ...] = ("NEW", "DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP", "INACTIVE")
RESULTS: tuple[str, ...] = ("COMPLETED", "FAILED", "CANCELED", "TIMEOUT")


class Event(Struct, omit_defaults=True):
    """One entry of a job's eventlog (RFC 18, RFC 21)."""

    timestamp: float
    name: str
    context: dict[str, Any] = {}


class Entry(Event, omit_defaults=True):
    """An entry of a job's eventlog, and what it made of the job: its state, and when it has ended how."""

    state: State | Unset = ""
    result: Result | Unset = ""
    returncode: int | Unset = ""


class JobEvents(Struct):
    """What the job manager's journal sends: events of one job, with its jobspec and R where they belong.

    ``id`` -1 with no events ends the history; what follows is live, one event at a time.
    """

    id: int
    events: list[Event]
    jobspec: dict[str, Any] | None = None
    R: dict[str, Any] | None = None
    faults: dict[str, str] = {}
    """What could not be read of it: kinds of faults, with an example of each."""


class ExceptionInfo(Struct):
    """The most severe exception of a job; all ``""`` until the job is inactive."""

    occurred: bool | Unset = ""
    severity: int | Unset = ""
    type: str = ""
    note: str = ""


class Job(Struct, kw_only=True):
    """One job, with every field that the predecessor's ``GET /v1/jobs/{id}`` had."""

    id: Annotated[int, Meta(ge=0, description="FLUID; may exceed 2^53")]
    f58id: Annotated[str, Meta(description="FLUID as F58: what a browser must use")]
    userid: Annotated[int, Meta(description="uid of the job's owner in Flux")]
    username: Annotated[str, Meta(description="its name")]
    submitter: Annotated[
        str, Meta(description="name of the caller that submitted it through this server; otherwise empty")
    ]
    urgency: Annotated[int, Meta(ge=0, le=31, description="0: held; 16: default; 31: before all others")]
    priority: Annotated[
        int | Unset, Meta(description="the scheduler takes higher ones first; Flux derives it from the urgency")
    ] = ""
    state: Annotated[State, Meta(description="where the job is now; see below")]
    result: Annotated[Result | Unset, Meta(description="how it ended, once it has; see below")] = ""
    returncode: Annotated[
        int | Unset,
        Meta(
            description="highest exit code of its tasks, 128 + N of one that signal N has ended (137: SIGKILL); -N: "
            "signal N has ended the job's shell; -128: canceled before it ran; 1: also failed before it ran"
        ),
    ] = ""
    waitstatus: Annotated[int | Unset, Meta(description="as wait(2) gives it, of the task with the highest one")] = ""
    success: Annotated[
        bool | UnsetType, Meta(description="whether the result is COMPLETED; absent until the job has ended")
    ] = UNSET
    name: Annotated[str, Meta(description="a longer one than 1024 bytes is cut, and whole in the jobspec")]
    command: Annotated[list[str], Meta(description="a longer one than 16 KiB is cut, and whole in the jobspec")]
    cwd: Annotated[str, Meta(description="working directory")]
    queue: Annotated[str, Meta(description="empty in an instance without named queues")]
    project: Annotated[str | UnsetType, Meta(description="for accounting")] = UNSET
    bank: Annotated[str | UnsetType, Meta(description="for accounting")] = UNSET
    ntasks: Annotated[int | Unset, Meta(description="number of tasks")] = ""
    ncores: Annotated[int | Unset, Meta(description="number of cores: wanted, and allocated once the job runs")] = ""
    nnodes: Annotated[int | Unset, Meta(description="number of nodes")] = ""
    ranks: Annotated[str, Meta(description="ranks of the brokers that it runs on, as an idset such as 0-3,7")] = ""
    nodelist: Annotated[str, Meta(description="its nodes, as a hostlist such as node[0-3]")] = ""
    duration: Annotated[float | Unset, Meta(description="time limit in seconds; 0: none")] = ""
    expiration: Annotated[float | Unset, Meta(description="when the time limit ends; 0: never")] = ""
    t_submit: Annotated[float, Meta(description="when it was submitted (Unix time)")]
    t_depend: Annotated[float | UnsetType, Meta(description="when it entered DEPEND")] = UNSET
    t_priority: Annotated[float | UnsetType, Meta(description="when it entered PRIORITY")] = UNSET
    t_sched: Annotated[float | UnsetType, Meta(description="when it entered SCHED")] = UNSET
    t_run: Annotated[float | UnsetType, Meta(description="when it entered RUN")] = UNSET
    t_cleanup: Annotated[float | UnsetType, Meta(description="when it entered CLEANUP")] = UNSET
    t_inactive: Annotated[float | UnsetType, Meta(description="when it ended")] = UNSET
    dependencies: Annotated[list[str] | UnsetType, Meta(description="what it waits for in DEPEND")] = UNSET
    annotations: Annotated[
        dict[str, Any] | UnsetType,
        Meta(description="what the scheduler and users say of it, memos under user (RFC 27)"),
    ] = UNSET
    exception: Annotated[ExceptionInfo, Meta(description="its most severe exception, once it has ended")] = field(
        default_factory=ExceptionInfo
    )
    exception_occurred: Annotated[bool | UnsetType, Meta(description="the same as exception.occurred")] = UNSET
    exception_severity: Annotated[int | UnsetType, Meta(description="the same as exception.severity")] = UNSET
    exception_type: Annotated[str | UnsetType, Meta(description="the same as exception.type")] = UNSET
    exception_note: Annotated[str | UnsetType, Meta(description="the same as exception.note")] = UNSET
    runtime: Annotated[
        float | UnsetType,
        Meta(
            description="seconds in RUN, so far or in all; 0 before. The time limit, runtime of a submit, is duration"
        ),
    ] = 0.0


class Brief(Struct):
    """A job in a plain list."""

    id: int
    f58id: str
    state: str
    result: str
    name: str


#: flux-job-urgency(1)'s words.
URGENCIES = {"hold": 0, "default": 16, "expedite": 31}
HIGHEST_URGENCY = 31
AS_TEXT = "or as text a duration (90s, 1h30m)"
"""What the description of a number of seconds says of other ways to write it."""
#: Flux counts tasks, cores, gpus and nodes in 32 bits.
_MOST = 2**31 - 1


class JobRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to run. The same names in a JSON body, a form and the query string."""

    command: Annotated[
        str | list[str],
        Meta(description="a list of at most 100,000 words, or one string in shell quoting", extra={"members": 100_000}),
    ]
    workdir: Annotated[str, Meta(max_length=4096, description="working directory; default: the instance's")] | None = (
        None
    )
    envars: Annotated[
        dict[str, str] | str | None,
        Meta(
            description="variables added to the job's environment, at most 10,000: an object, or in a form or query "
            "its JSON text"
        ),
    ] = None
    num_tasks: Annotated[int, Meta(ge=1, le=_MOST, description="default: num_nodes, or 1")] | None = None
    cores_per_task: Annotated[int, Meta(ge=1, le=_MOST, description="default: 1")] | None = None
    gpus_per_task: Annotated[int, Meta(ge=0, le=_MOST, description="default: none")] | None = None
    num_nodes: Annotated[int, Meta(ge=1, le=_MOST, description="spread over so many nodes")] | None = None
    exclusive: Annotated[bool | None, Meta(description="whole nodes; needs num_nodes")] = None
    runtime: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=10**10,
                description=f"time limit in seconds, {AS_TEXT}, which the job shows as duration; 0: none",
                extra={"duration": True},
            ),
        ]
        | None
    ) = None
    option_flags: Annotated[
        dict[str, Any] | str | None,
        Meta(
            description="shell options: an object, or KEY=VALUE,KEY=VALUE; keys without -o; at most 10,000 members, "
            "nested ones included"
        ),
    ] = None
    is_launcher: Annotated[
        bool | None, Meta(description="run a workflow launcher (nextflow, snakemake) beside the server")
    ] = None
    name: (
        Annotated[
            str, Meta(min_length=1, max_length=1000, description="default: the program's", extra={"not_empty": True})
        ]
        | None
    ) = None
    queue: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=1000,
                description="default: the instance's default queue",
                extra={"not_empty": True},
            ),
        ]
        | None
    ) = None
    urgency: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=HIGHEST_URGENCY,
                description="0 to 31; as text also hold (0), default (16), expedite (31)",
                extra={"words": URGENCIES},
            ),
        ]
        | None
    ) = None
    dependencies: Annotated[
        list[str] | str | None,
        Meta(description="such as afterok:ƒ…; a list, or separated by commas", extra={"not_empty": True}),
    ] = None
    stdin: Annotated[
        str | None,
        Meta(
            description="text that each task reads as its standard input; on Flux /bin/sh runs its command then, and "
            "may drop variables whose names no shell takes"
        ),
    ] = None


class Node(Struct, omit_defaults=False):
    """One node of the instance."""

    name: str
    rank: int
    state: Literal["down", "drained", "allocated", "free"]
    up: bool
    cores: int
    cores_allocated: int
    gpus: int
    gpus_allocated: int
    reason: Annotated[str, Meta(description="why it is drained")] = ""


class Resources(Struct):
    """All nodes, and since when this is so (Unix seconds)."""

    nodes: list[Node]
    updated: float = 0.0
    lost: frozenset[int] = frozenset()
    """Ranks of those that the scheduler no longer has."""


class Queue(Struct, kw_only=True):
    """One queue: whether it takes jobs, and whether it starts them."""

    name: str
    enabled: Annotated[bool, Meta(description="whether jobs may be submitted to it")]
    enabled_reason: Annotated[str, Meta(description="why it is disabled")] = ""
    started: Annotated[bool, Meta(description="whether its pending jobs are started")]
    started_reason: Annotated[str, Meta(description="why it is stopped")] = ""
    default: Annotated[bool, Meta(description="where a job goes that names no queue")]


class Queues(Struct):
    """All queues, and since when this is so (Unix seconds).

    ``anonymous``: there is only Flux's queue without a name, listed as :data:`ANONYMOUS`.
    """

    queues: list[Queue]
    updated: float = 0.0
    anonymous: bool = False


#: What the queue of an instance without named queues is called here.
ANONYMOUS = "default"


class Environment(Struct):
    """What a job inherits: the environment and working directory of the broker."""

    variables: dict[str, str]
    cwd: str


class HistoryBegin(Struct):
    """The journal starts from the beginning: what follows is history, until events of id -1.

    ``identity`` tells one instance from another; it survives the instance's own restart.
    """

    identity: str
