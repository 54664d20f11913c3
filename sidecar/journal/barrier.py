"""The read-your-writes barrier: reads wait until the commands accepted before them are visible in the store.

The response to a command is sent when the instance has accepted it; the effect reaches the store a moment later,
through the journal. A read of one job waits for commands on that job, a list for all jobs, and a command that selects
jobs for all of these. The wait is bounded. When it times out, nothing is forgotten: if the caller's own commands are
not visible, the response is 503 with the lag; otherwise the list lacks the jobs of others, and the response states the
lag.

Accepted jobs that are not stored are bounded in number and bytes. A submit waits for capacity, so neither memory nor
the lag of the journal grows with the number of submits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sidecar.domain.errors import Lagging
from sidecar.journal.accepted import AcceptedJobs, CommandMarks
from sidecar.journal.active_jobs import ActiveJobs
from sidecar.journal.progress import Progress
from sidecar.journal.retry import STUCK, Retry
from sidecar.store import Store, StoreError

TIMEOUT = 10.0
"""Seconds that a read waits for its caller's own commands."""
_OTHERS_TIMEOUT = 1.0  # seconds that it waits for the commands of other callers
_CHECK_INTERVAL = 1.0
_MAX_JOBS, _MAX_BULK_JOBS = 1024, 512  # accepted jobs that are not stored: in all, and beyond which a bulk pauses
_MAX_BYTES = 32 * 1024 * 1024
_CHECKED = 100
_MAX_RETRY_AFTER = 30
_SUBMIT_TIMEOUTS = 6  # a submit waits this many timeouts while other jobs are stored


class Barrier:
    """Wait for accepted commands to become visible, and limit how many are pending.

    Args:
        store: searched for jobs that are pending for long.
        progress: progress of the feed.
        retry: calls of the store by the feed.
        active_jobs: notified of accepted jobs.
    """

    def __init__(self, store: Store, progress: Progress, retry: Retry, active_jobs: ActiveJobs) -> None:
        self._store = store
        self._progress = progress
        self._retry = retry
        self._active_jobs = active_jobs
        self._commands = CommandMarks()
        self.accepted = AcceptedJobs()
        """Accepted jobs that are not in the store yet."""

    # ---------------------------------------------------------------------------------------------- commands

    @asynccontextmanager
    async def admit(self, size: int) -> AsyncIterator[None]:
        """Wait for capacity for one more submit, and count it while the context is active.

        Args:
            size: bytes of the jobspec.

        Raises:
            Lagging: the jobs accepted before are not stored in time.
        """
        if not self._has_capacity(size):
            await self._wait_for_capacity(size)
        self.accepted.submitting += 1
        self.accepted.bytes += size
        try:
            yield
        finally:
            self.accepted.submitting -= 1
            self.accepted.bytes -= size

    def _has_capacity(self, size: int) -> bool:
        if self._retry.stuck > STUCK:
            return False
        accepted = self.accepted
        fits = accepted.bytes + size <= _MAX_BYTES or not (accepted.submitting or accepted)
        return fits and len(accepted) < _MAX_JOBS

    async def _wait_for_capacity(self, size: int) -> None:
        """Wait while the store makes progress, up to a limit."""
        for _ in range(_SUBMIT_TIMEOUTS):
            before = self._progress.stored
            if self._retry.stuck <= STUCK:
                await self.wait(lambda: self._has_capacity(size) or self._retry.stuck > STUCK, TIMEOUT)
            if self._has_capacity(size):
                return
            if self._progress.stored == before or self._retry.stuck > STUCK or self._progress.stopping:
                break
        raise self._lagging("No jobs are accepted")

    async def wait_for_bulk(self, in_flight: Callable[[], int] = lambda: 0) -> None:
        """Wait until a bulk submit may continue, while the store makes progress; single submits keep some capacity.

        Args:
            in_flight: returns the number of its lines that are being submitted.
        """

        def ready() -> bool:
            few = len(self.accepted) < _MAX_BULK_JOBS and len(self.accepted) + in_flight() < _MAX_JOBS
            return few and self.accepted.bytes <= _MAX_BYTES // 2

        while not ready():
            before = self._progress.stored
            if await self.wait(ready, TIMEOUT):
                return
            if self._progress.stored == before or self._retry.stuck > STUCK or self._progress.stopping:
                return  # each line is refused with the reason

    def note_accepted(self, jobid: int, caller: str = "", size: int = 0) -> None:
        """Record a job that the instance has accepted: later reads wait for it.

        Args:
            jobid: the job.
            caller: name of its submitter.
            size: bytes of its jobspec.
        """
        self._active_jobs.note_accepted(jobid)
        self.accepted.add(jobid, caller, size)

    def is_pending(self, jobid: int) -> bool:
        """Return whether an accepted job is not in the store yet."""
        return jobid in self.accepted

    def note_command(self, jobid: int, caller: str) -> None:
        """Record a command on a job that the instance has carried out: later reads wait for its effect."""
        if self._progress.received > self._progress.stored:
            self._commands.add(jobid, caller, self._progress.received)

    # ------------------------------------------------------------------------------------------------- reads

    async def wait_visible(self, caller: str | None = None) -> None:
        """Wait until the commands accepted before are visible in the store.

        Args:
            caller: name of the reader, which waits only a moment for the commands of others; None: wait for all.

        Raises:
            Lagging: they are not visible before the timeout.
        """
        if not self.accepted and self._progress.stored >= self._commands.last:
            return
        last, mark = self.accepted.last_number, self._commands.last

        def all_visible() -> bool:
            return self._progress.stored >= mark and not self.accepted.has_up_to(last)

        if caller is None:
            await self._require(all_visible)
            return
        own_mark = self._commands.of_caller(caller)

        def own_visible() -> bool:
            return self._progress.stored >= own_mark and not self.accepted.has_up_to(last, caller)

        if self.accepted.waiting < _OTHERS_TIMEOUT and self._retry.stuck < _OTHERS_TIMEOUT:
            await self.wait(all_visible, _OTHERS_TIMEOUT)
        await self._require(own_visible)

    async def wait_job_visible(self, jobid: int) -> None:
        """Wait until the commands on one job accepted before are visible in the store.

        Raises:
            Lagging: they are not visible before the timeout.
        """
        mark = self._commands.of_job(jobid)
        if jobid in self.accepted or self._progress.stored < mark:
            await self._require(lambda: jobid not in self.accepted and self._progress.stored >= mark)

    async def _require(self, done: Callable[[], bool]) -> None:
        if done():
            return
        started = time.monotonic()
        if self._retry.stuck <= STUCK:
            await self.wait(lambda: done() or self._retry.stuck > STUCK, TIMEOUT)
        if not done():
            raise self._lagging("The response would lack accepted commands", time.monotonic() - started)

    def _lagging(self, consequence: str, waited: float = 0.0) -> Lagging:
        """Return the error for commands that are not visible before the timeout.

        Args:
            consequence: what this means for the caller.
            waited: for how long the request has waited (seconds).
        """
        lag = max(self.accepted.waiting, self._retry.stuck, waited)
        count = len(self.accepted)
        pending = f"{count} accepted jobs are" if count else "the effects of accepted commands are"
        reason = f": {self._retry.problem}" if self._retry.problem else "."
        return Lagging(
            f"{consequence}: {pending} not stored yet, after {lag:.1f} s{reason}",
            lag=round(lag, 3),
            retry_after=min(_MAX_RETRY_AFTER, max(1, math.ceil(lag / 2))),
        )

    # ---------------------------------------------------------------------------------------------- the feed

    async def wait(self, done: Callable[[], bool], timeout: float) -> bool:  # noqa: ASYNC109 - returned, not raised
        """Wait until a predicate is true, up to a timeout (seconds); return whether it is."""
        deadline = time.monotonic() + timeout
        while not (done() or self._progress.stopping):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, _CHECK_INTERVAL)):
                    await self._progress.wait_for(lambda: done() or self._progress.stopping)
            except TimeoutError:
                await self.check_store()
        return done()

    async def wait_stored(self) -> None:
        """Wait until all events received from the instance are stored, while the store makes progress."""

        def done() -> bool:
            return self._progress.all_stored or self._retry.stuck > STUCK

        while not done() and not self._progress.stopping:
            before = self._progress.stored
            if not await self.wait(done, TIMEOUT) and self._progress.stored == before:
                return

    async def check_store(self) -> None:
        """Resolve pending jobs that the store has: their events may have come long before."""
        for jobid in list(self.accepted)[:_CHECKED]:
            try:
                if await self._store.state(jobid) is not None:
                    self.resolve(jobid)
            except StoreError:
                return

    def resolve(self, jobid: int) -> None:
        """Record that a job is in the store, or that the journal has no events of it."""
        self._active_jobs.discard_accepted(jobid)
        self.accepted.remove(jobid)

    def advance(self, stored: int) -> None:
        """Record how many journal items are in the store."""
        self._progress.stored = stored
        self._commands.drop_up_to(stored)

    def resolve_up_to(self, number: int) -> None:
        """Resolve the jobs accepted up to a number: a whole history does not have them, or is another instance's."""
        for jobid in self.accepted.up_to(number):
            self.resolve(jobid)
