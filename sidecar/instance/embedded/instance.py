"""The embedded engine: jobs as processes of this machine, with Flux's states, jobids and events, but without Flux.

It is one node, for trials and client development: FIFO by urgency over the cores, strictly in order as in Flux's simple
scheduler. It rejects jobs that need more: nodes, gpus, queues, dependencies.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from sidecar.config.environment import process_environment
from sidecar.domain import feasibility, fluid, resource_counts
from sidecar.domain import jobspec as jobspecs
from sidecar.domain.errors import Conflict, Ended, NotFound, Rejected
from sidecar.domain.jobspec import Prepared
from sidecar.domain.model import ANONYMOUS, Environment, JobEvents, JournalBegin, Node, Queues, Resources
from sidecar.domain.model import Queue as QueueStatus
from sidecar.domain.resource_counts import Counts
from sidecar.instance.base import Ending, OutputChunks, Sink, Status
from sidecar.instance.embedded import epoch, orphans, output
from sidecar.instance.embedded.job_manager import JobManager
from sidecar.instance.embedded.processes import output_path
from sidecar.instance.embedded.queue import Job, Queue
from sidecar.runtime.tasks import Supervisor

log = structlog.get_logger("embedded")

_MOST_TASKS = 1000  # of one job
_KILL_TIMEOUT = 0.5  # seconds


class EmbeddedInstance:
    """The engine; the methods are those of :class:`~sidecar.instance.base.Instance`.

    Args:
        directory: of the jobs' output.
        cores: the number of cores for jobs; 0 for all that this process may use.
        kill_timeout: from the first signal to SIGKILL, in seconds.
    """

    def __init__(self, directory: Path, *, cores: int, kill_timeout: float) -> None:
        self.status = Status(kind="embedded", uri="embedded", version="", size=1)
        self.gone = asyncio.Event()
        self.refusal = ""
        self._hostname = socket.gethostname()
        self._directory = directory / "output"
        self._queue = Queue(cores or len(os.sched_getaffinity(0)))
        self._jobs = JobManager(self._queue, self._hostname, self._directory, kill_timeout)
        self._refusing = ""
        self._sink: Sink
        self._next_id: fluid.Generator

    # ---------------------------------------------------------------------------------------------- life cycle

    @property
    def fault(self) -> str:
        """Return an empty string: the engine runs on the event loop and has no faults of its own."""
        return ""

    @property
    def may_connect(self) -> bool:
        """Return False: the engine is connected from the start."""
        return False

    @property
    def ending(self) -> Ending:
        """Return ``exit``: the engine ends with this server."""
        return "exit"

    async def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Start to accept jobs; there is no history, as jobs do not outlive their engine."""
        self._sink = sink
        self._directory.mkdir(parents=True, exist_ok=True)
        if killed := await asyncio.to_thread(orphans.kill, self._directory):
            log.warning("processes of a killed server's jobs were ended", processes=killed)
        self._next_id = fluid.Generator(await asyncio.to_thread(epoch.read, self._directory))
        self._jobs.start(sink, tasks)
        self.status.set_connection("ready")
        self.status.broker_state = "run"
        sink.push(JournalBegin("embedded"))
        sink.push(JobEvents(-1, []))

    def replay_history(self) -> None:
        """End the wait for a history: there is none."""
        self._sink.push(JobEvents(-1, []))

    async def ended_jobs(self) -> int:
        """Return 0: the events of every job were sent already."""
        return 0

    def history_source(self) -> tuple[str, str]:
        """Return nothing: there is no history."""
        return "", ""

    async def close(self) -> None:
        """End all jobs, and the processes that have left their sessions."""
        await self.end_jobs()
        await asyncio.to_thread(orphans.kill, self._directory)
        self.gone.set()

    async def environment(self) -> Environment:
        """Return the server's environment, without its settings, and its working directory."""
        return Environment(process_environment(), os.getcwd())

    # ---------------------------------------------------------------------------------------------------- jobs

    async def submit(self, jobspec: Prepared, urgency: int) -> int:
        """Submit a job and return its jobid."""
        counts = self._check(jobspec.outline)
        job = Job(self._next_id(), jobspec.data, counts, urgency)
        self._jobs.submit(job, jobspecs.without_environment(jobspec.decoded()))
        return job.id

    async def check(self, jobspec: Prepared) -> None:
        """Check whether a submit would be accepted."""
        self._check(jobspec.outline)

    def _check(self, spec: Mapping[str, Any]) -> Counts:
        """Return the resources of a job that the engine can run.

        Raises:
            Rejected: it cannot run the job.
        """
        if self._refusing:
            raise Rejected(f"No jobs are accepted: {self._refusing}.")
        system = spec["attributes"]["system"]
        for name in ("queue", "dependencies"):
            if system.get(name):
                raise Rejected(f"{name}: not supported by the embedded engine; omit it, or serve a Flux instance.")
        if not os.path.isdir(system["cwd"]):
            raise Rejected(f"workdir: {system['cwd']} is not a directory on this machine.")
        counts = resource_counts.read(spec)
        if counts is None:
            raise Rejected("The embedded engine cannot run a job with such resources; serve a Flux instance.")
        if missing := feasibility.shortage(counts, self._nodes()):
            raise Rejected(f"{missing} (the embedded engine is one node without gpus).", errors=[missing])
        if (counts.tasks or 1) > _MOST_TASKS:
            raise Rejected(
                f"option_flags: per-resource: {counts.tasks} tasks; the embedded engine starts at most {_MOST_TASKS}."
            )
        return counts

    async def cancel(self, jobid: int, reason: str) -> None:
        """Cancel a job."""
        job = self._jobs.active.get(jobid)
        if job is None:
            raise Ended("Job cannot be cancelled: job is inactive.")
        self._jobs.cancel(job, reason)

    async def jobspec(self, jobid: int) -> dict[str, Any]:
        """Return the jobspec of an active job; the environment of others is not stored."""
        job = self._jobs.active.get(jobid)
        if job is None:
            raise NotFound("The embedded engine keeps a job's environment only until the job has ended.")
        return job.decoded()

    async def send_signal(self, jobid: int, signum: int) -> None:
        """Signal a running job."""
        job = self._jobs.active.get(jobid)
        if job is None or job.processes is None:
            raise Conflict(f"Job cannot be signalled: job is {'not running' if job else 'inactive'}.")
        if not job.processes.signal(signum):
            raise Conflict("Job cannot be signalled: one of its tasks runs as another user.")

    async def set_urgency(self, jobid: int, urgency: int) -> int:
        """Set the urgency of a pending job."""
        job = self._jobs.active.get(jobid)
        if job is None:
            raise Conflict("Job cannot be reprioritized: job is inactive.")
        if job not in self._queue:
            raise Conflict("Job cannot be reprioritized: urgency cannot be changed once resources are allocated.")
        return self._jobs.set_urgency(job, urgency)

    async def output_chunks(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """List the chunks of the output eventlog."""
        return await asyncio.to_thread(output.list_chunks, self._output_path(jobid), before)

    async def read_output(self, jobid: int, chunks: OutputChunks, index: int) -> bytes:
        """Read a chunk of the output eventlog."""
        return await asyncio.to_thread(output.read_chunk, self._output_path(jobid), chunks, index)

    async def wait_for_output(self, jobid: int, version: int) -> int | None:
        """Wait for the next write of a running job."""
        job = self._jobs.active.get(jobid)
        if job is None or job.processes is None:
            return None
        return await job.processes.wait_for_output(version)

    def _output_path(self, jobid: int) -> Path:
        return output_path(self._directory, fluid.f58(jobid))

    # ----------------------------------------------------------------------------------------- nodes and queues

    async def resources(self) -> Resources:
        """Return this machine as the only node."""
        return Resources(self._nodes(), time.time())

    def _nodes(self) -> list[Node]:
        queue, reason = self._queue, self._queue.drained
        state = "drained" if reason is not None else "allocated" if queue.used else "free"
        return [Node(self._hostname, 0, state, True, queue.cores, queue.used, 0, 0, reason or "")]  # type: ignore[arg-type]

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Drain the node."""
        if self._queue.drained:  # as with Flux, a reason stays until the node is undrained
            raise Conflict("The node cannot be drained: rank 0 already drained.")
        self._queue.drained = reason

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Undrain the node."""
        if self._queue.drained is None:
            raise Conflict("The node cannot be undrained: rank 0 not drained.")
        self._queue.drained = None
        self._jobs.schedule()

    async def queues(self) -> Queues:
        """Return the one queue."""
        refusing, stopped = self._refusing, self._queue.stopped
        status = QueueStatus(
            name=ANONYMOUS,
            enabled=not refusing,
            enabled_reason=refusing,
            started=stopped is None,
            started_reason=stopped or "",
            default=True,
        )
        return Queues([status], time.time(), anonymous=True)

    async def start_queue(self, name: str) -> None:
        """Start the queue."""
        self._queue.stopped = None
        self._jobs.schedule()

    async def stop_queue(self, name: str, reason: str) -> None:
        """Stop the queue."""
        self._queue.stopped = reason

    # ------------------------------------------------------------------------------------------------------ end

    async def refuse_submits(self, reason: str) -> None:
        """Refuse all further submits."""
        self._refusing = reason

    async def wait_until_idle(self) -> None:
        """Wait until no job is active."""
        await self._jobs.wait_until_idle()

    async def end_jobs(self) -> None:
        """Cancel all jobs and wait until every process has ended or was abandoned."""
        self._refusing = "the server is stopping"
        await self._jobs.end_all(self._refusing)

    async def shutdown(self) -> None:
        """Refuse: the engine ends with the server."""
        raise Conflict("The embedded engine ends with the server.")

    async def end_broker(self) -> None:
        """Refuse: there is no broker."""
        raise Conflict("The embedded engine has no broker.")

    def kill(self) -> None:
        """Kill all processes of all jobs; the search for those in other sessions has a timeout."""
        self._jobs.kill_all()
        search = threading.Thread(target=orphans.kill, args=(self._directory,), daemon=True)
        search.start()
        search.join(_KILL_TIMEOUT)

    async def broker_state(self) -> str:
        """Return ``run``, the engine's only state."""
        return self.status.broker_state
