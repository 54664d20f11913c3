"""The one queue of the embedded engine: which job starts next, and on which cores.

It is FIFO by urgency, strictly in order: a job that does not fit yet keeps all behind it waiting, as with Flux's
simple scheduler.
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
    """A job that has not ended."""

    id: int
    spec: bytes
    """Its jobspec as JSON: thousands of jobs may wait, and as objects it takes many times as much memory."""
    want: Counts
    urgency: int
    cores: list[int] = []
    processes: Processes | None = None
    task: asyncio.Task[None] | None = None
    ended: bool = False

    def decoded(self) -> dict[str, Any]:
        """Return the jobspec."""
        return msgspec.json.decode(self.spec, type=dict[str, Any])


def priority(urgency: int) -> int:
    """Return the priority that Flux gives to a job of an urgency, where no plugin says otherwise."""
    return _HIGHEST_PRIORITY if urgency == EXPEDITE else urgency


class Queue:
    """Pending jobs, and the cores that are free for them.

    Args:
        cores: how many there are.
    """

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._free = set(range(cores))
        self._pending: list[Job] = []
        self.stopped: str | None = None
        """Why no job is started from it; None while they are."""
        self.drained: str | None = None
        """Why no job is started on the node; None while they are."""

    @property
    def used(self) -> int:
        """How many cores jobs have."""
        return self.cores - len(self._free)

    def __contains__(self, job: Job) -> bool:
        return job in self._pending

    def add(self, job: Job) -> None:
        """Take a job in, behind those of its urgency."""
        self._pending.append(job)
        self._sort()

    def remove(self, job: Job) -> None:
        """Let go of a pending job."""
        self._pending.remove(job)

    def reprioritize(self, job: Job, urgency: int) -> int:
        """Give a pending job another urgency and the place that goes with it; return the old one."""
        old, job.urgency = job.urgency, urgency
        self._sort()
        return old

    def _sort(self) -> None:
        self._pending.sort(key=lambda job: (-job.urgency, job.id))

    def take(self) -> Job | None:
        """Take the next job out and give it its cores; None while it has to wait. Held ones never start."""
        if self.stopped is not None or self.drained is not None:
            return None
        if not self._pending or self._pending[0].urgency == HOLD:
            return None
        job = self._pending[0]
        need = self.cores if job.want.exclusive else job.want.total_slots * job.want.cores
        if need > len(self._free):
            return None
        self._pending.pop(0)
        job.cores = sorted(self._free)[:need]
        self._free.difference_update(job.cores)
        return job

    def release(self, job: Job) -> None:
        """Take a job's cores back."""
        self._free.update(job.cores)
