"""The embedded engine: jobs as real processes of this machine, with Flux's states, ids and events, without Flux.

It serves one machine, for trying out and for client development: FIFO by urgency over the cores, strictly in order
as Flux's simple scheduler works. What needs more (nodes, gpus, queues, dependencies) it refuses, and says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from sidecar.config.environment import process_environment
from sidecar.domain import feasibility, fluid, idset, jobspec
from sidecar.domain import resource_counts as counts
from sidecar.domain.errors import Conflict, Ended, NotFound, Rejected
from sidecar.domain.jobspec import Prepared
from sidecar.domain.model import ANONYMOUS, Environment, Event, HistoryBegin, JobEvents, Node, Queues, Resources
from sidecar.domain.model import Queue as QueueStatus
from sidecar.domain.resource_counts import Counts
from sidecar.instance.base import Ending, OutputChunks, Sink, Status
from sidecar.instance.embedded import epoch as embedded_epoch
from sidecar.instance.embedded import orphans, output
from sidecar.instance.embedded.processes import ExecError, Processes, output_path
from sidecar.instance.embedded.queue import Job, Queue, priority
from sidecar.runtime.tasks import Supervisor

log = structlog.get_logger("embedded")

_TASKS = 1000  # processes of one job
_FAILED = 1 << 8
_LAST_LOOK = 0.5  # seconds


class EmbeddedInstance:
    """An engine for this machine.

    Args:
        directory: where outputs are kept.
        cores: how many cores to give to jobs; 0 for all that this process may use.
        kill_timeout: from the first signal to SIGKILL, in seconds.
    """

    def __init__(self, directory: Path, *, cores: int, kill_timeout: float) -> None:
        count = cores or len(os.sched_getaffinity(0))
        self._hostname = socket.gethostname()
        self.status = Status(kind="embedded", uri="embedded", version="", size=1)
        self.gone = asyncio.Event()
        self.refusal = ""
        self._directory = directory / "output"
        self._kill_timeout = kill_timeout
        self._queue = Queue(count)
        self._active: dict[int, Job] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusing = ""
        self._closing = False
        self._sink: Sink
        self._tasks: Supervisor
        self._next_id: fluid.Generator

    @property
    def fault(self) -> str:
        """It runs on the event loop, and works for as long as that does."""
        return ""

    @property
    def may_connect(self) -> bool:
        """It is there from the start."""
        return False

    @property
    def ending(self) -> Ending:
        """It ends with this server."""
        return "exit"

    async def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Begin to take jobs; there is no history, a job does not outlive its engine."""
        self._sink, self._tasks = sink, tasks
        self._directory.mkdir(parents=True, exist_ok=True)
        if left := await asyncio.to_thread(orphans.end, self._directory):
            log.warning("processes of a killed server's jobs were ended", processes=left)
        self._next_id = fluid.Generator(await asyncio.to_thread(embedded_epoch.read, self._directory))
        self.status.set_connection("ready")
        self.status.broker_state = "run"
        sink.push(HistoryBegin("embedded"))
        sink.push(JobEvents(-1, []))

    def replay_history(self) -> None:
        """Do nothing but end the wait for a history: none is kept."""
        self._sink.push(JobEvents(-1, []))

    async def close(self) -> None:
        """End what is left, also what has left the jobs' sessions."""
        await self.end_jobs()
        await asyncio.to_thread(orphans.end, self._directory)
        self.gone.set()

    async def end_jobs(self) -> None:
        """Cancel all jobs and wait until every process has ended, or is left behind."""
        self._refusing, self._closing = "the server is stopping", True
        for job in list(self._active.values()):
            self._end_early(job, "cancel", self._refusing, signal.SIGTERM)
        tasks = [job.task for job in self._active.values() if job.task]
        if tasks:
            await asyncio.wait(tasks)

    # ------------------------------------------------------------------------------------------------ commands

    async def environment(self) -> Environment:
        """Jobs inherit the server's environment and directory, less its settings."""
        return Environment(process_environment(), os.getcwd())

    async def submit(self, spec: Prepared, urgency: int) -> int:
        """Take a job; see :class:`~sidecar.instance.base.Instance`."""
        want = self._check(spec.outline)
        job = Job(self._next_id(), spec.data, want, urgency)
        self._active[job.id] = job
        self._idle.clear()
        redacted = jobspec.without_environment(spec.decoded())
        submit = Event(time.time(), "submit", {"userid": os.getuid(), "urgency": urgency, "flags": 0, "version": 1})
        self._sink.push(JobEvents(job.id, [submit], jobspec=redacted))
        for name in ("validate", "depend"):
            self._tell(job, name)
        self._tell(job, "priority", {"priority": priority(urgency)})
        self._queue.add(job)
        self._schedule()
        return job.id

    def _check(self, spec: Mapping[str, Any]) -> Counts:
        if self._refusing:
            raise Rejected(f"No jobs are accepted: {self._refusing}.")
        system = spec["attributes"]["system"]
        for name in ("queue", "dependencies"):
            if system.get(name):
                raise Rejected(f"{name}: the embedded engine has none; leave it out, or serve a Flux instance.")
        if not os.path.isdir(system["cwd"]):
            raise Rejected(f"workdir: {system['cwd']} is not a directory on this machine.")
        want = counts.read(spec)
        if want is None:
            raise Rejected("The embedded engine cannot run a job of this shape; serve a Flux instance.")
        if missing := feasibility.shortage(want, self._nodes()):
            raise Rejected(f"{missing} (the embedded engine is one node without gpus).", errors=[missing])
        if (want.tasks or 1) > _TASKS:
            raise Rejected(
                f"option_flags: per-resource: {want.tasks} tasks; the embedded engine starts {_TASKS} at most."
            )
        return want

    async def cancel(self, jobid: int, reason: str) -> None:
        """Cancel a job; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(jobid)
        if job is None:
            raise Ended("Job cannot be cancelled: job is inactive.")
        self._end_early(job, "cancel", reason, signal.SIGTERM)

    async def check(self, spec: Prepared) -> None:
        """Refuse what a submit would be refused for."""
        self._check(spec.outline)

    async def jobspec(self, jobid: int) -> dict[str, Any]:
        """Return the jobspec of a job that has not ended; nothing keeps the environment of one that has."""
        job = self._active.get(jobid)
        if job is None:
            raise NotFound("The embedded engine keeps a job's environment only until the job has ended.")
        return job.decoded()

    async def send_signal(self, jobid: int, signum: int) -> None:
        """Signal a running job; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(jobid)
        if job is None or job.processes is None:
            raise Conflict(f"Job cannot be signalled: job is {'not running' if job else 'inactive'}.")
        if not job.processes.signal(signum):
            raise Conflict("Job cannot be signalled: a task of it runs as another user.")

    async def set_urgency(self, jobid: int, urgency: int) -> int:
        """Change a pending job's urgency; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(jobid)
        if job is None:
            raise Conflict("Job cannot be reprioritized: job is inactive.")
        if job not in self._queue:
            raise Conflict("Job cannot be reprioritized: urgency cannot be changed once resources are allocated.")
        old = self._queue.reprioritize(job, urgency)
        # Flux tells both, also where nothing changes.
        self._tell(job, "urgency", {"userid": os.getuid(), "urgency": urgency})
        self._tell(job, "priority", {"priority": priority(urgency)})
        self._schedule()
        return old

    async def output_chunks(self, jobid: int, before: OutputChunks | None) -> OutputChunks:
        """Find the pieces of the output eventlog as it is now."""
        return await asyncio.to_thread(output.list_chunks, self._output_path(jobid), before)

    async def read_output(self, jobid: int, chunks: OutputChunks, index: int) -> bytes:
        """Read a piece of the output eventlog."""
        return await asyncio.to_thread(output.read_chunk, self._output_path(jobid), chunks, index)

    async def wait_for_output(self, jobid: int, version: int) -> int | None:
        """Wait for what a running job writes next; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(jobid)
        if job is None or job.processes is None:
            return None
        return await job.processes.written(version)

    def _output_path(self, jobid: int) -> Path:
        return output_path(self._directory, fluid.f58(jobid))

    async def resources(self) -> Resources:
        """Return this machine as the only node."""
        return Resources(self._nodes(), time.time())

    def _nodes(self) -> list[Node]:
        queue, why = self._queue, self._queue.drained
        state = "drained" if why is not None else "allocated" if queue.used else "free"
        return [Node(self._hostname, 0, state, True, queue.cores, queue.used, 0, 0, why or "")]  # type: ignore[arg-type]

    async def drain(self, ranks: Sequence[int], reason: str) -> None:
        """Start no more jobs; see :class:`~sidecar.instance.base.Instance`."""
        if self._queue.drained:  # as with Flux, a reason that somebody gave stays until they take it back
            raise Conflict("The node cannot be drained: rank 0 already drained.")
        self._queue.drained = reason

    async def undrain(self, ranks: Sequence[int]) -> None:
        """Start jobs again; see :class:`~sidecar.instance.base.Instance`."""
        if self._queue.drained is None:
            raise Conflict("The node cannot be undrained: rank 0 not drained.")
        self._queue.drained = None
        self._schedule()

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
        """Start the queue; see :class:`~sidecar.instance.base.Instance`."""
        self._queue.stopped = None
        self._schedule()

    async def stop_queue(self, name: str, reason: str) -> None:
        """Stop the queue; see :class:`~sidecar.instance.base.Instance`."""
        self._queue.stopped = reason

    async def refuse_submits(self, reason: str) -> None:
        """Take no more jobs."""
        self._refusing = reason

    async def wait_until_idle(self) -> None:
        """Wait until no job is active."""
        await self._idle.wait()

    async def shutdown(self) -> None:
        """Never asked for: the engine ends with the server."""
        raise Conflict("The embedded engine ends with the server.")

    async def end_broker(self) -> None:
        """Never asked for: there is no broker."""
        raise Conflict("The embedded engine has no broker.")

    def kill(self) -> None:
        """Kill all processes of all jobs; a look for those in other sessions holds up nothing."""
        for job in self._active.values():
            if job.processes:
                job.processes.signal(signal.SIGKILL)
        looking = threading.Thread(target=orphans.end, args=(self._directory,), daemon=True)
        looking.start()
        looking.join(_LAST_LOOK)

    async def broker_state(self) -> str:
        """Return ``run``: there is nothing else to be in."""
        return self.status.broker_state

    # ------------------------------------------------------------------------------------------------- running

    def _schedule(self) -> None:
        while not self._closing and (job := self._queue.take()):
            job.processes = Processes(job.id, job.decoded(), job.want.tasks or 1, self._hostname, self._directory)
            job.task = self._start(job, job.processes)

    def _start(self, job: Job, processes: Processes) -> asyncio.Task[None]:
        name = fluid.f58(job.id)
        return self._tasks.start(lambda: self._run(job, processes), "embedded job", on_death="note", job=name).task

    async def _run(self, job: Job, processes: Processes) -> None:
        duration = processes.duration
        now = time.time()
        children = {"core": idset.encode(job.cores)}
        execution = {
            "R_lite": [{"rank": "0", "children": children}],
            "nodelist": [self._hostname],
            "starttime": now,
            "expiration": now + duration if duration else 0.0,
        }
        annotations = {"sched": {"resource_summary": f"rank0/core{children['core']}"}}
        alloc = Event(time.time(), "alloc", {"annotations": annotations})
        self._sink.push(JobEvents(job.id, [alloc], R={"version": 1, "execution": execution}))
        self._tell(job, "start")
        limit = None
        if duration:
            limit = asyncio.get_running_loop().call_later(
                duration, self._end_early, job, "timeout", "resource allocation expired", signal.SIGALRM
            )
        try:
            status = await processes.run()
        except ExecError as exc:
            self._tell(job, "exception", _exception("exec", exc.note))
            status = exc.status
        except Exception:  # a fault of the engine's own: the job has ended all the same, and its cores are free
            log.exception("a job could not be run", job=fluid.f58(job.id))
            self._tell(job, "exception", _exception("exec", "the embedded engine failed; its log says how"))
            status = _FAILED
        finally:
            if limit:
                limit.cancel()
        self._tell(job, "finish", {"status": status})
        self._tell(job, "release", {"ranks": "all", "final": True})
        self._queue.release(job)
        self._tell(job, "free")
        self._finish(job)
        self._schedule()

    def _end_early(self, job: Job, kind: str, note: str, number: signal.Signals) -> None:
        """Raise a fatal exception: a pending job ends at once, a running one is signalled, then killed."""
        self._tell(job, "exception", _exception(kind, note))
        if job in self._queue:
            self._queue.remove(job)
            self._finish(job)
            self._schedule()
        elif job.processes and not job.ended:
            job.ended = True
            job.processes.signal(number)
            asyncio.get_running_loop().call_later(self._kill_timeout, self._kill, job)

    def _kill(self, job: Job) -> None:
        if job.id in self._active and job.processes:
            job.processes.kill()

    def _finish(self, job: Job) -> None:
        self._tell(job, "clean")
        del self._active[job.id]
        if not self._active:
            self._idle.set()

    def _tell(self, job: Job, name: str, context: dict[str, Any] | None = None) -> None:
        self._sink.push(JobEvents(job.id, [Event(time.time(), name, context or {})]))


def _exception(kind: str, note: str) -> dict[str, Any]:
    return {"type": kind, "severity": 0, "note": note, "userid": os.getuid()}
