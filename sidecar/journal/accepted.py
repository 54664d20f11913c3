"""Commands that the instance has accepted and that have no effect in the store yet."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

K = TypeVar("K")

_RECENT = 4096


class _Accepted(NamedTuple):
    caller: str
    number: int
    size: int
    since: float


class AcceptedJobs:
    """Submitted jobs, oldest first. Each gets a number, in ascending order."""

    def __init__(self) -> None:
        self.last_number = 0
        """Number of the job that was accepted last."""
        self.bytes = 0
        """Size of the jobspecs of these jobs, and of submits in flight."""
        self.submitting = 0
        """Number of submits in flight."""
        self._jobs: dict[int, _Accepted] = {}
        self._numbers_by_caller: dict[str, dict[int, int]] = {}
        self._recent: OrderedDict[int, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, jobid: int) -> bool:
        return jobid in self._jobs

    def __iter__(self) -> Iterator[int]:
        return iter(self._jobs)

    @property
    def waiting(self) -> float:
        """Age of the oldest job since its acceptance (seconds); 0 without any."""
        return time.monotonic() - next(iter(self._jobs.values())).since if self._jobs else 0.0

    def add(self, jobid: int, caller: str, size: int) -> None:
        """Add a job, unless it is in the store already.

        Args:
            jobid: the job.
            caller: name of its submitter.
            size: bytes of its jobspec.
        """
        if jobid in self._recent or jobid in self._jobs:
            return
        self.last_number += 1
        self.bytes += size
        self._jobs[jobid] = _Accepted(caller, self.last_number, size, time.monotonic())
        self._numbers_by_caller.setdefault(caller, {})[jobid] = self.last_number

    def remove(self, jobid: int) -> None:
        """Remove a job that is in the store.

        One that was not added yet is remembered: its events have preceded the response to its submit.
        """
        job = self._jobs.pop(jobid, None)
        if job is None:
            self._recent[jobid] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return
        self.bytes -= job.size
        numbers = self._numbers_by_caller[job.caller]
        del numbers[jobid]
        if not numbers:
            del self._numbers_by_caller[job.caller]

    def forget_recent(self) -> None:
        """Forget which jobs are in the store: it was replaced by one of another instance."""
        self._recent.clear()

    def has_up_to(self, number: int, caller: str | None = None) -> bool:
        """Return whether a job with this number or a lower one is left, of one caller or of all."""
        if caller is None:
            return _first(job.number for job in self._jobs.values()) <= number
        return _first(self._numbers_by_caller.get(caller, {}).values()) <= number

    def up_to(self, number: int) -> list[int]:
        """Return the jobs with this number and lower ones."""
        jobids = []
        for jobid, job in self._jobs.items():
            if job.number > number:
                break
            jobids.append(jobid)
        return jobids


def _first(numbers: Iterable[int]) -> float:
    return next(iter(numbers), float("inf"))


class CommandMarks:
    """For commands other than submits: how many journal items must be stored before reads show the effect."""

    def __init__(self) -> None:
        self.last = 0
        """Mark of the last command."""
        self._by_job: dict[int, int] = {}
        self._by_caller: dict[str, int] = {}

    def add(self, jobid: int, caller: str, mark: int) -> None:
        """Record a command."""
        self.last = mark
        _append(self._by_job, jobid, mark)
        _append(self._by_caller, caller, mark)

    def of_job(self, jobid: int) -> int:
        """Return the mark of the last command on a job."""
        return self._by_job.get(jobid, 0)

    def of_caller(self, caller: str) -> int:
        """Return the mark of the last command of a caller."""
        return self._by_caller.get(caller, 0)

    def drop_up_to(self, stored: int) -> None:
        """Drop the marks that are reached."""
        _drop_up_to(self._by_job, stored)
        _drop_up_to(self._by_caller, stored)


def _append(marks: dict[K, int], key: K, mark: int) -> None:
    """Set a mark that is at least as high as the others, so that they stay in ascending order."""
    marks.pop(key, None)
    marks[key] = mark


def _drop_up_to(marks: dict[K, int], stored: int) -> None:
    while marks and marks[key := next(iter(marks))] <= stored:
        del marks[key]
