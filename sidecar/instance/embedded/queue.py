"""The queue of the embedded engine, which selects the next job to start and its cores.

It is FIFO by urgency, strictly in order: a job that does not fit yet blocks all behind it, as in Flux's simple
scheduler.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from sidecar.domain.resource_counts import Counts
from sidecar.instance.embedded.processes import Processes

HOLD, EXPEDITE = 0, 31
_HIGHEST_PRIORITY = 2**32 - 1


class Job(msgspec.Struct, eq=False):
    """An active job."""

    id: int
    spec: bytes
    """The jobspec as JSON: thousands of jobs may wait, and objects take many times as much memory."""
    counts: Counts
    urgency: int
    cores: list[int] = []
    processes: Processes | None = None
    task: asyncio.Task[None] | None = None
    ending: bool = False
    """Whether its processes were signaled because of a fatal exception."""

    def decoded(self) -> dict[str, Any]:
        """Return the jobspec."""
        return msgspec.json.decode(self.spec, type=dict[str, Any])


def priority(urgency: int) -> int:
    """Return the priority that Flux assigns to an urgency without a priority plugin."""
    return _HIGHEST_PRIORITY if urgency == EXPEDITE else urgency


class Queue:
    """Pending jobs and free cores.

    Args:
        cores: the number of cores.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._free = set(range(cores))
        self._pending: list[Job] = []
        self.stopped: str | None = None
        """Why the queue is stopped; None while it is started."""
        self.drained: str | None = None
        """Why the node is drained; None while it is not."""

    @property
    def used(self) -> int:
        """The number of allocated cores."""
        return self.cores - len(self._free)

    def __contains__(self, job: Job) -> bool:
        return job in self._pending

    def add(self, job: Job) -> None:
        """Add a job behind those with its urgency."""
        self._pending.append(job)
        self._sort()

    def remove(self, job: Job) -> None:
        """Remove a pending job."""
        self._pending.remove(job)

    def reprioritize(self, job: Job, urgency: int) -> int:
        """Set the urgency of a pending job, move it accordingly, and return the previous urgency."""
        previous, job.urgency = job.urgency, urgency
        self._sort()
        return previous

    def _sort(self) -> None:
        self._pending.sort(key=lambda job: (-job.urgency, job.id))

    def take(self) -> Job | None:
        """Remove the next job and allocate its cores; return None while it has to wait. Held jobs never start."""
        if self.stopped is not None or self.drained is not None:
            return None
        if not self._pending or self._pending[0].urgency == HOLD:
            return None
        job = self._pending[0]
        count = self.cores if job.counts.exclusive else job.counts.total_slots * job.counts.cores
        if count > len(self._free):
            return None
        self._pending.pop(0)
        job.cores = sorted(self._free)[:count]
        self._free.difference_update(job.cores)
        return job

    def release(self, job: Job) -> None:
        """Free a job's cores."""
        self._free.update(job.cores)
