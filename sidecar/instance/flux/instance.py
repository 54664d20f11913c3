"""A Flux instance, as the rest of the server uses it: coroutines in front of the Flux thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sidecar.domain.jobspec import Prepared
from sidecar.domain.model import Environment, Queues, Resources
from sidecar.instance.base import Ending, OutputChunks, Sink, Status
from sidecar.instance.flux.admin import FluxAdmin
from sidecar.instance.flux.client import FluxClient
from sidecar.instance.flux.connection import FluxConnection, Timeouts
from sidecar.instance.flux.environment import inherited_environment
from sidecar.instance.flux.jobs import FluxJobs
from sidecar.instance.flux.output import FluxOutput
from sidecar.instance.flux.shutdown import FluxShutdown
from sidecar.runtime.tasks import Supervisor
from sidecar.telemetry.instruments import Instruments


class FluxInstance:
    """The instance at ``uri``; the methods are those of :class:`~sidecar.instance.base.Instance`.

    Args:
        uri: as in flux-uri(1).
        instruments: count the requests to Flux.
        rpc_timeout: of one response, in seconds.
        lost_timeout: how long a broken connection is retried before the instance counts as gone, in seconds.
        silence_timeout: how long the broker may send nothing before it counts as lost, in seconds.
        address: where this server listens, to be reported to a second server that is refused.
    """

    def __init__(
        self,
        uri: str,
        instruments: Instruments,
        *,
        rpc_timeout: float,
        lost_timeout: float,
        silence_timeout: float,
        address: str = "",
    ) -> None:
        self.status = Status(kind="flux", uri=uri, since=time.time())
        timeouts = Timeouts(rpc=rpc_timeout, lost=lost_timeout, silence=silence_timeout)
        self._connection = FluxConnection(self.status, timeouts, self._on_connected, address=address)
        self._client = FluxClient(self.status, instruments)
        self._admin = FluxAdmin(self._client)
        self._jobs = FluxJobs(self._client, self._admin)
        self._output = FluxOutput(self._client)
        self._shutdown = FluxShutdown(self._client)
        self._environment: Environment | None = None
        self.gone = self._connection.gone

    def _on_connected(self) -> None:
        """Discard what is known: it may be another instance, with other nodes."""
        self._environment = None
        self._admin.clear()

    # ---------------------------------------------------------------------------------------------- life cycle

    @property
    def refusal(self) -> str:
        """Why the broker refuses this server."""
        return self._connection.refusal

    @property
    def fault(self) -> str:
        """Why the Flux thread does not work."""
        return self._connection.fault

    @property
    def may_connect(self) -> bool:
        """Whether a broker may exist at the URI."""
        return self._connection.may_connect

    @property
    def ending(self) -> Ending:
        """How the instance ends."""
        return self._connection.ending

    async def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Start the Flux thread."""
        self._client.requests = self._connection.start(sink, tasks)

    def replay_history(self) -> None:
        """Connect again: the journal then starts with its history."""
        self._connection.reconnect()

    async def ended_jobs(self) -> int:
        """Return the number of inactive jobs."""
        stats = await self._client.rpc("job-manager.stats-get")
        return int(stats["inactive_jobs"])

    def history_source(self) -> tuple[str, str]:
        """Return the URI, and what identifies the broker of this connection."""
        broker = self._connection.broker
        return self.status.uri, broker.process if broker else ""

    async def close(self) -> None:
        """End the Flux thread; the instance continues."""
        await self._connection.close()

    async def environment(self) -> Environment:
        """Return the broker's environment: inherited by an initial program, reported by a broker elsewhere."""
        if self._environment is None:
            broker = self._connection.broker
            self._environment = inherited_environment(
                broker.inherited if broker else None, initial_program=self.ending == "exit"
            )
        return self._environment

    # ---------------------------------------------------------------------------------------------------- jobs

    async def submit(self, jobspec: Prepared, urgency: int) -> int:
        """Submit a job and return its jobid."""
        broker = self._connection.broker
        return await self._jobs.submit(jobspec, urgency, owner=broker.owner if broker else "")

    async def check(self, jobspec: Prepared) -> None:
        """Check whether a submit would be accepted."""
        await self._jobs.check(jobspec)

    async def cancel(self, jobid: int, reason: str) -> None:
        """Cancel a job."""
        await self._jobs.cancel(jobid, reason)

    async def send_signal(self, jobid: int, signum: int) -> None:
        """Signal a running job."""
        await self._jobs.send_signal(jobid, signum)

    async def set_urgency(self, jobid: int, urgency: int) -> int:
        """Set the urgency of a pending job."""
        return await self._jobs.set_urgency(jobid, urgency)

    async def jobspec(self, jobid: int) -> dict[str, Any]:
        """Return a job's jobspec with its environment."""
        return await self._jobs.jobspec(jobid)

    async def output_chunks(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """List the blobs of a job's output eventlog, whether the job is running or not."""
        return await self._output.list_chunks(jobid, before)

    async def read_output(self, jobid: int, chunks: OutputChunks, index: int) -> bytes:
        """Load a blob of a job's output eventlog."""
        return await self._output.read_chunk(chunks, index)

    async def wait_for_output(self, jobid: int, version: int) -> int | None:
        """Wait for the next write of the job's shell."""
        return await self._output.wait(jobid, version)

    # ----------------------------------------------------------------------------------------- nodes and queues

    async def resources(self) -> Resources:
        """Return the nodes."""
        return await self._admin.resources()

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Drain nodes."""
        await self._admin.drain(ranks, reason)

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Undrain nodes."""
        await self._admin.undrain(ranks)

    async def queues(self) -> Queues:
        """Return the queues."""
        return await self._admin.queues()

    async def start_queue(self, name: str) -> None:
        """Start a queue."""
        await self._admin.start_queue(name)

    async def stop_queue(self, name: str, reason: str) -> None:
        """Stop a queue."""
        await self._admin.stop_queue(name, reason)

    # --------------------------------------------------------------------------------------------------- end

    async def refuse_submits(self, reason: str) -> None:
        """Disable every queue."""
        await self._shutdown.refuse_submits(reason)

    async def wait_until_idle(self) -> None:
        """Wait until no job is active."""
        await self._shutdown.wait_until_idle()

    async def end_jobs(self) -> None:
        """Do nothing: the jobs belong to Flux."""

    async def shutdown(self) -> None:
        """Request a Flux shutdown."""
        await self._shutdown.shutdown()

    async def end_broker(self) -> None:
        """Send SIGTERM to the broker."""
        broker = self._connection.broker
        await self._shutdown.end_broker(broker.pid if broker else 0)

    def kill(self) -> None:
        """Do nothing: the jobs belong to Flux."""

    async def broker_state(self) -> str:
        """Return the state of the broker's state machine."""
        return await self._shutdown.broker_state()
