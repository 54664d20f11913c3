"""The words that everything else speaks: jobs, events, requests, nodes.

Times are Unix seconds, durations are seconds. A field whose type admits ``""`` holds that when there is no value
yet: the predecessor answered so, and its clients index these fields without asking.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

Unset = Literal[""]

State = Literal["NEW", "DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP", "INACTIVE"]
Result = Literal["COMPLETED", "FAILED", "CANCELED", "TIMEOUT"]

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
    userid: int
    username: str
    submitter: Annotated[
        str, Meta(description="who has submitted it by way of this server; empty when it came another way")
    ]
    urgency: Annotated[int, Meta(ge=0, le=31)]
    priority: int | Unset = ""
    state: State
    result: Result | Unset = ""
    returncode: Annotated[
        int | Unset, Meta(description="highest exit code, or minus the signal; -128: canceled before it ran")
    ] = ""
    waitstatus: int | Unset = ""
    success: bool | UnsetType = UNSET
    name: str
    command: list[str]
    cwd: str
    queue: str
    project: str | UnsetType = UNSET
    bank: str | UnsetType = UNSET
    ntasks: int | Unset = ""
    ncores: int | Unset = ""
    nnodes: int | Unset = ""
    ranks: Annotated[str, Meta(description="idset")] = ""
    nodelist: Annotated[str, Meta(description="hostlist")] = ""
    duration: Annotated[float | Unset, Meta(description="time limit in seconds; 0: none")] = ""
    expiration: Annotated[float | Unset, Meta(description="when the time limit ends; 0: never")] = ""
    t_submit: float
    t_depend: float | UnsetType = UNSET
    t_priority: float | UnsetType = UNSET
    t_sched: float | UnsetType = UNSET
    t_run: float | UnsetType = UNSET
    t_cleanup: float | UnsetType = UNSET
    t_inactive: float | UnsetType = UNSET
    dependencies: list[str] | UnsetType = UNSET
    annotations: dict[str, Any] | UnsetType = UNSET
    exception: ExceptionInfo = field(default_factory=ExceptionInfo)
    exception_occurred: bool | UnsetType = UNSET
    exception_severity: int | UnsetType = UNSET
    exception_type: str | UnsetType = UNSET
    exception_note: str | UnsetType = UNSET
    runtime: Annotated[float | UnsetType, Meta(description="seconds in RUN, so far or in all")] = UNSET


class Brief(Struct):
    """A job in a plain list."""

    id: int
    f58id: str
    state: str
    result: str
    name: str


#: Flux counts tasks, cores, gpus and nodes in 32 bits.
_MOST = 2**31 - 1


class JobRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to run. The same names in a JSON body, a form and the query string."""

    command: Annotated[str | list[str], Meta(description="a list of words, or one string in shell quoting")]
    workdir: Annotated[str | None, Meta(description="working directory; default: the instance's")] = None
    envars: Annotated[
        dict[str, str] | str | None,
        Meta(description="variables added to the job's environment: an object, or in a form or query its JSON text"),
    ] = None
    num_tasks: Annotated[int, Meta(ge=1, le=_MOST, description="default: num_nodes, or 1")] | None = None
    cores_per_task: Annotated[int, Meta(ge=1, le=_MOST, description="default: 1")] | None = None
    gpus_per_task: Annotated[int, Meta(ge=0, le=_MOST, description="default: none")] | None = None
    num_nodes: Annotated[int, Meta(ge=1, le=_MOST, description="spread over so many nodes")] | None = None
    exclusive: Annotated[bool | None, Meta(description="whole nodes; needs num_nodes")] = None
    runtime: Annotated[float, Meta(ge=0, description="time limit in seconds; 0: none")] | None = None
    option_flags: Annotated[
        dict[str, Any] | str | None,
        Meta(description="shell options: an object, or KEY=VALUE,KEY=VALUE; keys without -o"),
    ] = None
    is_launcher: Annotated[
        bool | None, Meta(description="run a workflow launcher (nextflow, snakemake) beside the server")
    ] = None
    name: Annotated[str, Meta(min_length=1, description="default: the program's")] | None = None
    queue: Annotated[str, Meta(min_length=1, description="default: the instance's default queue")] | None = None
    urgency: Annotated[int, Meta(ge=0, le=31, description="16 is the default; 0 holds the job")] | None = None
    dependencies: Annotated[
        list[str] | str | None, Meta(description="such as afterok:ƒ…; a list, or separated by commas")
    ] = None
    stdin: Annotated[str | None, Meta(description="text that each task reads as its standard input")] = None


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


decode_events = msgspec.json.Decoder(JobEvents).decode
