"""The embedded engine: jobs as real processes of this machine, with Flux's states, ids and events, without Flux.

It serves one machine, for trying out and for client development: FIFO by urgency over the cores, strictly in order
as Flux's simple scheduler works. What needs more (nodes, gpus, queues, dependencies) it refuses, and says so.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidecar import feasibility, fluid, idset, jobspec, settings
from sidecar.errors import Conflict, NotFound, Rejected
from sidecar.instance.base import Ending, HistoryBegin, Sink, Status
from sidecar.instance.embedded_job import ExecError, Processes, output_path
from sidecar.instance.embedded_queue import Job, Queue, priority
from sidecar.jobspec import Counts
from sidecar.model import ANONYMOUS, Environment, Event, JobEvents, Node, Queues, Resources
from sidecar.model import Queue as QueueStatus
from sidecar.output import Output, parse


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
        self._next_id = fluid.Generator()
        self._refusing = ""
        self._closing = False
        self._sink: Sink

    @property
    def fault(self) -> str:
        """It runs on the event loop, and works for as long as that does."""
        return ""

    @property
    def ending(self) -> Ending:
        """It ends with this server."""
        return "exit"

    async def start(self, sink: Sink) -> None:
        """Begin to take jobs; there is no history, a job does not outlive its engine."""
        self._sink = sink
        self._directory.mkdir(parents=True, exist_ok=True)
        self.status.change("ready")
        self.status.broker_state = "run"
        sink.push(HistoryBegin("embedded"))
        sink.push(JobEvents(-1, []))

    async def close(self) -> None:
        """Cancel what is left and wait until every process has ended."""
        self._refusing, self._closing = "the server is stopping", True
        for job in list(self._active.values()):
            self._end_early(job, "cancel", self._refusing, signal.SIGTERM)
        tasks = [job.task for job in self._active.values() if job.task]
        if tasks:
            await asyncio.wait(tasks)
        self.gone.set()

    # ------------------------------------------------------------------------------------------------ commands

    async def environment(self) -> Environment:
        """Jobs inherit the server's environment and directory, less its settings."""
        return Environment(settings.process_environment(), os.getcwd())

    async def submit(self, spec: Mapping[str, Any], urgency: int) -> int:
        """Take a job; see :class:`~sidecar.instance.base.Instance`."""
        want = self._check(spec)
        job = Job(self._next_id(), spec, want, urgency)
        self._active[job.id] = job
        redacted = jobspec.without_environment(spec)
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
        want = jobspec.counts(spec)
        if want is None:
            raise Rejected("The embedded engine cannot run a job of this shape; serve a Flux instance.")
        if missing := feasibility.shortage(want, self._nodes()):
            raise Rejected(f"{missing} (the embedded engine is one node without gpus).", errors=[missing])
        return want

    async def cancel(self, fluid_: int, reason: str) -> None:
        """Cancel a job; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(fluid_)
        if job is None:
            raise Conflict("Job cannot be cancelled: job is inactive.")
        self._end_early(job, "cancel", reason, signal.SIGTERM)

    async def check(self, spec: Mapping[str, Any]) -> None:
        """Refuse what a submit would be refused for."""
        self._check(spec)

    async def jobspec(self, fluid_: int) -> dict[str, Any]:
        """Return the jobspec of a job that has not ended; nothing keeps the environment of one that has."""
        job = self._active.get(fluid_)
        if job is None:
            raise NotFound("The embedded engine keeps a job's environment only until the job has ended.")
        return {**job.spec}

    async def send_signal(self, fluid_: int, number: int) -> None:
        """Signal a running job; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(fluid_)
        if job is None or job.processes is None:
            raise Conflict(f"Job cannot be signalled: job is {'not running' if job else 'inactive'}.")
        job.processes.signal(number)

    async def set_urgency(self, fluid_: int, urgency: int) -> int:
        """Change a pending job's urgency; see :class:`~sidecar.instance.base.Instance`."""
        job = self._active.get(fluid_)
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

    async def output(self, fluid_: int) -> Output:
        """Read the output eventlog as it is now."""
        return parse(await asyncio.to_thread(_read_output, output_path(self._directory, fluid.f58(fluid_))))

    async def watch_output(self, fluid_: int, take: Callable[[str], None]) -> None:
        """Hand out the output eventlog of a running job, and what its tasks add to it."""
        job = self._active.get(fluid_)
        if job is None or job.processes is None or job.task is None:
            return
        # Both in one turn of the loop: nothing is written between what is read and what is told.
        take(_read_output(output_path(self._directory, fluid.f58(fluid_))))
        job.processes.watchers.append(take)
        try:
            await asyncio.wait([job.task])
        finally:
            job.processes.watchers.remove(take)

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

    async def shutdown(self) -> None:
        """Never asked for: the engine ends with the server."""
        raise Conflict("The embedded engine ends with the server.")

    async def broker_state(self) -> str:
        """Return ``run``: there is nothing else to be in."""
        return self.status.broker_state

    # ------------------------------------------------------------------------------------------------- running

    def _schedule(self) -> None:
        while not self._closing and (job := self._queue.take()):
            job.processes = Processes(job.id, job.spec, job.want.tasks or 1, self._hostname, self._directory)
            job.task = asyncio.create_task(self._run(job, job.processes))

    async def _run(self, job: Job, processes: Processes) -> None:
        duration = float(job.spec["attributes"]["system"].get("duration") or 0)
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
            job.processes.signal(signal.SIGKILL)

    def _finish(self, job: Job) -> None:
        self._tell(job, "clean")
        del self._active[job.id]

    def _tell(self, job: Job, name: str, context: dict[str, Any] | None = None) -> None:
        self._sink.push(JobEvents(job.id, [Event(time.time(), name, context or {})]))


def _exception(kind: str, note: str) -> dict[str, Any]:
    return {"type": kind, "severity": 0, "note": note, "userid": os.getuid()}


def _read_output(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
