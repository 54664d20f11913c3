"""The protocol of an instance: the operations that the rest of the server needs from Flux or the embedded engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Protocol

from msgspec import Meta, Struct

from sidecar.domain.errors import Unavailable
from sidecar.domain.jobspec import Prepared
from sidecar.domain.model import Environment, JobEvents, JournalBegin, Queues, Resources
from sidecar.runtime.tasks import Supervisor

Connection = Literal["connecting", "ready", "lost", "gone"]

Ending = Literal["exit", "shutdown", "foreign"]
"""How the instance ends.

``exit``: with this server, which is the initial program or contains the embedded engine. ``shutdown``: by a Flux
shutdown, as there is no initial program. ``foreign``: with another initial program.
"""


class Status(Struct):
    """The connection to the instance, and the attributes of the instance that are known."""

    connection: Annotated[
        Connection, Meta(description="`lost` while it is retried; `gone` when the instance will not come back")
    ] = "connecting"
    detail: Annotated[str, Meta(description="why it is not `ready`")] = ""
    since: Annotated[float, Meta(description="when `connection` last changed, in Unix seconds")] = 0.0
    kind: Annotated[Literal["flux", "embedded"], Meta(description="a Flux instance or the embedded engine")] = "flux"
    uri: Annotated[str, Meta(description="of the instance, as in flux-uri(1)")] = ""
    version: Annotated[str, Meta(description="of Flux")] = ""
    size: Annotated[int, Meta(description="the number of brokers")] = 0
    rank: Annotated[int, Meta(description="the rank of the broker that this server is connected to")] = 0
    broker_state: Annotated[str, Meta(description="the last known state of the broker, such as `run`")] = ""

    def set_connection(self, connection: Connection, detail: str = "") -> bool:
        """Set the state of the connection; return whether it differs from the previous one."""
        changed = self.connection != connection
        if changed:
            self.since = time.time()
        self.connection, self.detail = connection, detail
        return changed

    def require_ready(self) -> None:
        """Check that the instance can accept commands.

        Raises:
            Unavailable: the instance is not connected; the text states the cause.
        """
        if self.connection != "ready":
            raise Unavailable(f"The instance is {self.connection}: {self.detail or 'no response yet'}")


class Sink(Protocol):
    """Receives the job events in order."""

    def push(self, item: JournalBegin | JobEvents) -> None:
        """Accept one item. Called on the event loop; must not block."""

    def interrupted(self) -> None:
        """Note that no more events follow until the next history, which contains the ones that are missed."""

    @property
    def backlog(self) -> int:
        """The number of items that are not processed yet; read from any thread."""


class OutputChunks(Protocol):
    """The chunks of a job's output eventlog. Each has whole entries and never changes; chunks are only appended."""

    def __len__(self) -> int: ...

    def chunk_id(self, index: int) -> int:
        """Return the ID of a chunk, which is valid on other servers too."""

    def find(self, chunk_id: int) -> int | None:
        """Return the index of the chunk with an ID."""

    def cache_key(self, index: int) -> tuple[int, int]:
        """Return a key that distinguishes the chunk from others with the same index, in this list or in a later one."""

    def last_stable(self, index: int) -> int:
        """Return the last chunk up to ``index`` that begins at a position where every server begins a chunk."""


class Instance(Protocol):
    """An instance that runs jobs. All methods are called on the event loop and do not block it."""

    status: Status
    gone: asyncio.Event
    """Set when the instance has ended and will not come back."""

    @property
    def refusal(self) -> str:
        """Why this server can never serve the instance, and what to change; empty otherwise."""

    @property
    def fault(self) -> str:
        """The fault that only a restart of the server can clear; empty while there is none."""

    @property
    def may_connect(self) -> bool:
        """Whether the first connection may still succeed: a broker exists, or may exist, at the URI."""

    @property
    def ending(self) -> Ending:
        """How this instance ends; known once it is ready."""

    async def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Start to connect.

        Args:
            sink: receives the job events from then on.
            tasks: runs the background tasks.
        """

    def replay_history(self) -> None:
        """Send the whole history again, if the instance keeps one: events that were sent before may have been lost."""

    async def ended_jobs(self) -> int:
        """Return the number of jobs that have ended and that the instance still has.

        Raises:
            OSError, Unavailable: the instance does not respond.
        """

    def history_source(self) -> tuple[str, str]:
        """Return the arguments by which :mod:`sidecar.history` finds the instance: its URI, and the broker there."""

    async def close(self) -> None:
        """Disconnect from the instance; the embedded engine ends its jobs."""

    async def environment(self) -> Environment:
        """Return the environment that jobs inherit."""

    async def submit(self, jobspec: Prepared, urgency: int) -> int:
        """Submit a job and return its jobid once the job was accepted.

        Raises:
            Rejected: the instance refused the job; the text has the instance's message.
            Unavailable: the instance is not connected.
        """

    async def cancel(self, jobid: int, reason: str) -> None:
        """Cancel a job; return once the request was accepted.

        Raises:
            Conflict: the job cannot be canceled.
            NotFound: there is no such job.
            Unavailable: the instance is not connected.
        """

    async def send_signal(self, jobid: int, signum: int) -> None:
        """Send a signal (1 to 64) to every task of a running job.

        Raises:
            Conflict: the job is not running.
            NotFound: there is no such job.
            Unavailable: the instance is not connected.
        """

    async def set_urgency(self, jobid: int, urgency: int) -> int:
        """Set the urgency (0 to 31) of a pending job and return the previous one.

        Raises:
            Conflict: the job is past SCHED.
            NotFound: there is no such job.
            Unavailable: the instance is not connected.
        """

    async def output_chunks(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """Return the chunks that a job's output eventlog has now; an empty list if there is no eventlog yet.

        Args:
            jobid: the job.
            before: the previous result; chunks keep their index.

        Raises:
            Gone: the instance no longer has the job's output.
            Unavailable: the instance is not connected.
        """

    async def read_output(self, jobid: int, chunks: OutputChunks, index: int) -> bytes:
        """Read one chunk; raises as :meth:`output_chunks` does."""

    async def wait_for_output(self, jobid: int, version: int) -> int | None:
        """Wait until the output eventlog of a running job may have more chunks.

        Args:
            jobid: the job.
            version: the previous result; −1 returns at once.

        Returns:
            The current version; None if nothing writes to the eventlog now, so that waiting is pointless.

        Raises:
            Unavailable: the instance is not connected.
        """

    async def jobspec(self, jobid: int) -> dict[str, Any]:
        """Return a job's jobspec as it was submitted, with its environment.

        Raises:
            NotFound: the instance does not have the jobspec.
            Unavailable: the instance is not connected.
        """

    async def check(self, jobspec: Prepared) -> None:
        """Check a jobspec against the queue, its limits and the resources, without submitting it.

        Dependencies and the decisions of job manager plugins are not checked: only a submit can do that.

        Raises:
            Rejected: the job would be refused; the text has the instance's message.
            Unavailable: the instance is not connected.
        """

    async def resources(self) -> Resources:
        """Return the nodes, at most a second old; the last known ones while the connection is lost."""

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Drain nodes: no more jobs start there; running jobs continue.

        Raises:
            Conflict: the instance refused; the text has its message.
            Unavailable: the instance is not connected.
        """

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Undrain nodes; raises as :meth:`drain` does."""

    async def queues(self) -> Queues:
        """Return the queues, at most a second old; the last known ones while the connection is lost."""

    async def start_queue(self, name: str) -> None:
        """Start a queue that :meth:`queues` lists, and so its pending jobs.

        Raises:
            Conflict: the instance refused; the text has its message.
            Unavailable: the instance is not connected.
        """

    async def stop_queue(self, name: str, reason: str) -> None:
        """Stop a queue: its pending jobs do not start; running jobs continue. Raises as :meth:`start_queue` does."""

    async def refuse_submits(self, reason: str) -> None:
        """Refuse all further submits, including those that do not come from this server.

        Raises:
            Conflict: the instance refused; the text has its message.
        """

    async def wait_until_idle(self) -> None:
        """Wait without a timeout until no job is active, according to the instance."""

    async def end_jobs(self) -> None:
        """End the jobs that cannot outlive this server and wait for their end; Flux has none."""

    async def shutdown(self) -> None:
        """Request a Flux shutdown without waiting for its end."""

    async def end_broker(self) -> None:
        """Signal a broker to end that no shutdown can end because it never reached the state ``run``.

        Raises:
            Conflict: the broker cannot be signaled.
            Unavailable: the instance is not connected.
        """

    def kill(self) -> None:
        """Kill all processes of jobs that run under this server, as the process is about to exit."""

    async def broker_state(self) -> str:
        """Request the broker's state (``run``, ``cleanup`` …) and return it."""
