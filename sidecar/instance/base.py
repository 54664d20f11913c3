"""The protocol of an instance: what the rest of the server may ask of the place where jobs run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Literal, Protocol

from msgspec import Struct

from sidecar.domain.errors import Unavailable
from sidecar.domain.jobspec import Prepared
from sidecar.domain.model import Environment, HistoryBegin, JobEvents, Queues, Resources
from sidecar.runtime.tasks import Supervisor

Connection = Literal["connecting", "ready", "lost", "gone"]

Ending = Literal["exit", "shutdown", "foreign"]
"""How the instance ends: with this server (``exit``: it is the initial program, or the engine itself), by Flux's
shutdown (there is no initial program), or with somebody else's initial program (``foreign``)."""


class Status(Struct):
    """The connection to the instance, and what is known about it."""

    connection: Connection = "connecting"
    detail: str = ""
    since: float = 0.0
    kind: Literal["flux", "embedded"] = "flux"
    uri: str = ""
    version: str = ""
    size: int = 0
    broker_state: str = ""

    def change(self, connection: Connection, detail: str = "") -> bool:
        """Note a new state of the connection; return whether it is another than before."""
        changed = self.connection != connection
        if changed:
            self.since = time.time()
        self.connection, self.detail = connection, detail
        return changed

    def require(self) -> None:
        """Let a command through only while the instance is there.

        Raises:
            Unavailable: it is not; the text says why.
        """
        if self.connection != "ready":
            raise Unavailable(f"The instance is {self.connection}: {self.detail or 'no answer yet'}")


class Sink(Protocol):
    """Who takes the job events, in their order."""

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take one item; never blocks, called on the event loop."""

    def interrupted(self) -> None:
        """Note that what happens from now on is told with the next history, and not before."""

    @property
    def backlog(self) -> int:
        """How many items wait to be worked on; read from any thread."""


class OutputChunks(Protocol):
    """The pieces of a job's output eventlog: whole entries each, and never another than before."""

    def __len__(self) -> int: ...

    def name(self, number: int) -> int:
        """Return what a piece is called, also by another server."""

    def find(self, name: int) -> int | None:
        """Return the number of the piece that is called so."""

    def extent(self, number: int) -> tuple[int, int]:
        """Return what tells a piece from any other of the same number, in this list or in one that is made later."""

    def stable(self, number: int) -> int:
        """Return the last piece up to ``number`` that begins where one begins for every other server too."""


class Instance(Protocol):
    """A place where jobs run. All methods are called on the event loop; none blocks it."""

    status: Status
    gone: asyncio.Event
    """Set when the instance has ended and will not come back."""
    refusal: str
    """Why this server can never serve the instance, with what to change; empty while it may."""

    @property
    def fault(self) -> str:
        """Why only a restart of the server would help; empty while it works."""

    @property
    def expected(self) -> bool:
        """Whether the first connection may come at any moment: there is, or may be, something to connect to."""

    @property
    def ending(self) -> Ending:
        """How this instance ends; known once it is ready."""

    async def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Begin to connect; events go to ``sink`` from then on, and ``tasks`` runs what goes on in the background."""

    def begin_again(self) -> None:
        """Tell the whole history again, where there is one; events that were told before may have been lost."""

    async def close(self) -> None:
        """Let go of the instance; the embedded engine ends its jobs."""

    async def environment(self) -> Environment:
        """Return what a job inherits."""

    async def submit(self, jobspec: Prepared, urgency: int) -> int:
        """Submit a job and return its FLUID once it was accepted.

        Raises:
            Rejected: the instance refused it, in its own words.
            Unavailable: the instance is not there.
        """

    async def cancel(self, fluid: int, reason: str) -> None:
        """Ask for a job's end.

        Raises:
            Conflict: it cannot be cancelled.
            NotFound: there is no such job.
            Unavailable: the instance is not there.
        """

    async def send_signal(self, fluid: int, number: int) -> None:
        """Send a signal (1 to 64) to every task of a running job.

        Raises:
            Conflict: the job does not run.
            NotFound: there is no such job.
            Unavailable: the instance is not there.
        """

    async def set_urgency(self, fluid: int, urgency: int) -> int:
        """Give a pending job another urgency (0 to 31) and return the one that it had.

        Raises:
            Conflict: the job is past SCHED.
            NotFound: there is no such job.
            Unavailable: the instance is not there.
        """

    async def output_pieces(self, fluid: int, before: OutputChunks | None) -> OutputChunks:
        """Return the pieces of a job's output eventlog, as many as there are now; none when there is no log.

        Args:
            fluid: the job.
            before: what was returned last; a piece keeps its number.

        Raises:
            Gone: the instance no longer has the job's output.
            Unavailable: the instance is not there.
        """

    async def output_piece(self, fluid: int, pieces: OutputChunks, number: int) -> bytes:
        """Read one piece; raises as :meth:`output_pieces` does."""

    async def output_change(self, fluid: int, version: int) -> int | None:
        """Wait until the log of a running job may have more pieces.

        Args:
            fluid: the job.
            version: what was returned last; −1: answer at once.

        Returns:
            The version that it has now; None: nothing writes to it now, so there is nothing to wait for.

        Raises:
            Unavailable: the instance is not there.
        """

    async def jobspec(self, fluid: int) -> dict[str, Any]:
        """Return a job's jobspec as it was submitted, with its environment.

        Raises:
            NotFound: the instance does not know the job.
            Unavailable: the instance is not there.
        """

    async def check(self, jobspec: Prepared) -> None:
        """Find out whether a queue would take a job, by its limits, and whether it could ever run; submit nothing.

        What only the submit can tell is not found out: dependencies, and what plugins of the job manager decide.

        Raises:
            Rejected: it would not, in the instance's own words.
            Unavailable: the instance is not there.
        """

    async def resources(self) -> Resources:
        """Return the nodes, at most a moment old; the last known ones while the instance is lost."""

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Start no more jobs on some nodes; what runs there goes on.

        Raises:
            Conflict: the instance refuses, in its own words.
            Unavailable: the instance is not there.
        """

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Start jobs on drained nodes again; raises as :meth:`drain` does."""

    async def queues(self) -> Queues:
        """Return the queues, at most a moment old; the last known ones while the instance is lost."""

    async def start_queue(self, name: str) -> None:
        """Start a queue's pending jobs; ``name`` is one that :meth:`queues` lists.

        Raises:
            Conflict: the instance refuses, in its own words.
            Unavailable: the instance is not there.
        """

    async def stop_queue(self, name: str, reason: str) -> None:
        """Start none of a queue's pending jobs; what runs goes on. Raises as :meth:`start_queue` does."""

    async def refuse_submits(self, reason: str) -> None:
        """Let nobody submit any more, whichever way they come."""

    async def drained(self) -> None:
        """Wait until no job is active, by the instance's own word, for as long as that takes."""

    async def end_jobs(self) -> None:
        """End the jobs that end with this server, and wait for them; on Flux none do."""

    async def shutdown(self) -> None:
        """Ask Flux to shut the instance down, without waiting for it."""

    async def end_broker(self) -> None:
        """End by a signal a broker that no shutdown can end, since it has not come to run.

        Raises:
            Conflict: it cannot be signalled.
            Unavailable: the instance is not there.
        """

    def kill(self) -> None:
        """End at once what runs in this process's care; for the last moment of the process."""

    async def broker_state(self) -> str:
        """Return the broker's state (``run``, ``cleanup`` …), asked for anew."""
