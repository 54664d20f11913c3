"""Runs the jobs of the embedded engine: their events, their start in the order of the queue, and their end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from sidecar.domain import fluid, idset
from sidecar.domain.model import Event, JobEvents
from sidecar.instance.base import Sink
from sidecar.instance.embedded.processes import ExecError, Processes
from sidecar.instance.embedded.queue import Job, Queue, priority
from sidecar.runtime.tasks import Supervisor

log = structlog.get_logger("embedded")

_FAILED = 1 << 8  # wait status


class JobManager:
    """Holds the active jobs and emits the events that Flux would.

    Args:
        queue: of pending jobs.
        hostname: of this machine.
        directory: of the jobs' output and temporary files.
        kill_timeout: from the first signal to SIGKILL, in seconds.
    """

    def __init__(self, queue: Queue, hostname: str, directory: Path, kill_timeout: float) -> None:
        self.active: dict[int, Job] = {}
        """By their jobid."""
        self._queue = queue
        self._hostname = hostname
        self._directory = directory
        self._kill_timeout = kill_timeout
        self._idle = asyncio.Event()
        self._idle.set()
        self._closing = False
        self._sink: Sink
        self._tasks: Supervisor

    def start(self, sink: Sink, tasks: Supervisor) -> None:
        """Start to emit events to ``sink``; ``tasks`` runs a task for each running job."""
        self._sink, self._tasks = sink, tasks

    def submit(self, job: Job, jobspec: dict[str, Any]) -> None:
        """Add a job to the queue; its submit event has ``jobspec``."""
        self.active[job.id] = job
        self._idle.clear()
        context = {"userid": os.getuid(), "urgency": job.urgency, "flags": 0, "version": 1}
        self._sink.push(JobEvents(job.id, [Event(time.time(), "submit", context)], jobspec=jobspec))
        for name in ("validate", "depend"):
            self._emit(job, name)
        self._emit(job, "priority", {"priority": priority(job.urgency)})
        self._queue.add(job)
        self.schedule()

    def set_urgency(self, job: Job, urgency: int) -> int:
        """Set the urgency of a pending job and return the previous one."""
        previous = self._queue.reprioritize(job, urgency)
        # Like Flux, emit both events even if nothing changes.
        self._emit(job, "urgency", {"userid": os.getuid(), "urgency": urgency})
        self._emit(job, "priority", {"priority": priority(urgency)})
        self.schedule()
        return previous

    def cancel(self, job: Job, reason: str) -> None:
        """Raise a cancel exception."""
        self._raise_fatal(job, "cancel", reason, signal.SIGTERM)

    def schedule(self) -> None:
        """Start the pending jobs that fit."""
        while not self._closing and (job := self._queue.take()):
            job.processes = Processes(job.id, job.decoded(), job.counts.tasks or 1, self._hostname, self._directory)
            job.task = self._start(job, job.processes)

    async def wait_until_idle(self) -> None:
        """Wait until no job is active."""
        await self._idle.wait()

    async def end_all(self, reason: str) -> None:
        """Start no more jobs, cancel all, and wait until every process has ended or was abandoned."""
        self._closing = True
        for job in list(self.active.values()):
            self.cancel(job, reason)
        tasks = [job.task for job in self.active.values() if job.task]
        if tasks:
            await asyncio.wait(tasks)

    def kill_all(self) -> None:
        """Send SIGKILL to every task."""
        for job in self.active.values():
            if job.processes:
                job.processes.signal(signal.SIGKILL)

    def _start(self, job: Job, processes: Processes) -> asyncio.Task[None]:
        name = fluid.f58(job.id)
        return self._tasks.start(lambda: self._run(job, processes), "embedded job", on_death="note", job=name).task

    async def _run(self, job: Job, processes: Processes) -> None:
        """Run a job from its alloc event to its end."""
        self._allocate(job, processes.duration)
        self._emit(job, "start")
        limit = None
        if processes.duration:
            limit = asyncio.get_running_loop().call_later(
                processes.duration, self._raise_fatal, job, "timeout", "resource allocation expired", signal.SIGALRM
            )
        try:
            status = await processes.run()
        except ExecError as exc:
            self._emit(job, "exception", _exception("exec", exc.note))
            status = exc.status
        except Exception:  # an error of the engine: the job has ended nevertheless, and its cores are free
            log.exception("a job could not be run", job=fluid.f58(job.id))
            self._emit(job, "exception", _exception("exec", "the embedded engine failed; see its log"))
            status = _FAILED
        finally:
            if limit:
                limit.cancel()
        self._emit(job, "finish", {"status": status})
        self._emit(job, "release", {"ranks": "all", "final": True})
        self._queue.release(job)
        self._emit(job, "free")
        self._clean(job)
        self.schedule()

    def _allocate(self, job: Job, duration: float) -> None:
        """Emit the alloc event with the job's R."""
        now = time.time()
        children = {"core": idset.encode(job.cores)}
        execution: Mapping[str, Any] = {
            "R_lite": [{"rank": "0", "children": children}],
            "nodelist": [self._hostname],
            "starttime": now,
            "expiration": now + duration if duration else 0.0,
        }
        annotations = {"sched": {"resource_summary": f"rank0/core{children['core']}"}}
        alloc = Event(time.time(), "alloc", {"annotations": annotations})
        self._sink.push(JobEvents(job.id, [alloc], R={"version": 1, "execution": execution}))

    def _raise_fatal(self, job: Job, kind: str, note: str, signum: signal.Signals) -> None:
        """Raise a fatal exception: a pending job ends at once, a running one is signaled, then killed."""
        self._emit(job, "exception", _exception(kind, note))
        if job in self._queue:
            self._queue.remove(job)
            self._clean(job)
            self.schedule()
        elif job.processes and not job.ending:
            job.ending = True
            job.processes.signal(signum)
            asyncio.get_running_loop().call_later(self._kill_timeout, self._kill, job)

    def _kill(self, job: Job) -> None:
        if job.id in self.active and job.processes:
            job.processes.kill()

    def _clean(self, job: Job) -> None:
        self._emit(job, "clean")
        del self.active[job.id]
        if not self.active:
            self._idle.set()

    def _emit(self, job: Job, name: str, context: dict[str, Any] | None = None) -> None:
        self._sink.push(JobEvents(job.id, [Event(time.time(), name, context or {})]))


def _exception(kind: str, note: str) -> dict[str, Any]:
    return {"type": kind, "severity": 0, "note": note, "userid": os.getuid()}
