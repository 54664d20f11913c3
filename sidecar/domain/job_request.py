"""The request for a job, as a client submits it."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from sidecar.domain.durations import AS_TEXT
from sidecar.domain.model import HIGHEST_URGENCY, URGENCIES, Environment
from sidecar.domain.untrusted import COUNT


class JobRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What to run. The names are the same in a JSON body, a form and the query string."""

    command: Annotated[
        str | list[str],
        Meta(
            description="command: a list of at most 100,000 words, or a string in shell quoting",
            extra={"members": 100_000},
        ),
    ]
    workdir: (
        Annotated[str, Meta(max_length=4096, description="working directory; default: that of the instance")] | None
    ) = None
    envars: Annotated[
        dict[str, str] | str | None,
        Meta(
            description="variables added to the job's environment, at most 10,000: an object, or in a form or query "
            "its JSON text"
        ),
    ] = None
    num_tasks: Annotated[int, Meta(ge=1, le=COUNT, description="number of tasks; default: num_nodes, or 1")] | None = (
        None
    )
    cores_per_task: Annotated[int, Meta(ge=1, le=COUNT, description="cores for each task; default: 1")] | None = None
    gpus_per_task: Annotated[int, Meta(ge=0, le=COUNT, description="GPUs for each task; default: 0")] | None = None
    num_nodes: Annotated[int, Meta(ge=1, le=COUNT, description="number of nodes to spread the tasks over")] | None = (
        None
    )
    exclusive: Annotated[bool | None, Meta(description="allocate whole nodes; needs num_nodes")] = None
    runtime: (
        Annotated[
            float,
            Meta(
                ge=0,
                le=10**10,
                description=f"time limit in seconds, {AS_TEXT}, which the job shows as duration; 0: unlimited",
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
            str,
            Meta(
                min_length=1,
                max_length=1000,
                description="name of the job; default: that of the program",
                extra={"not_empty": True},
            ),
        ]
        | None
    ) = None
    queue: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=1000,
                description="queue; default: the instance's default queue",
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
        Meta(description="dependencies such as afterok:ƒ…: a list, or separated by commas", extra={"not_empty": True}),
    ] = None
    stdin: Annotated[
        str | None,
        Meta(
            description="text that each task reads as its standard input; on Flux /bin/sh then runs the command, and "
            "may drop variables whose names are not valid in a shell"
        ),
    ] = None


class JobContext(Struct, kw_only=True, frozen=True):
    """What a job of another dialect has in place of the instance's environment and directory."""

    environment: Environment
    """The whole environment, and the working directory."""
    bank: str = ""
    """The bank, for accounting; empty: none."""
    sent: Struct
    """The request as its client sent it, which an idempotency key stands for."""
