"""Find the job that a request names, or raise the error that says why it cannot be found."""

from __future__ import annotations

from sidecar.auth.caller import Caller
from sidecar.domain import fluid, restored
from sidecar.domain.errors import NotFound, Problem, Unavailable
from sidecar.domain.model import Job
from sidecar.journal.feed import Feed
from sidecar.store import Store


class JobLookup:
    """Read single jobs from the store, once it reflects every command on them that was accepted before.

    Args:
        store: holds the jobs.
        feed: the journal, which has the barrier for reads.
    """

    def __init__(self, store: Store, feed: Feed) -> None:
        self._store = store
        self._feed = feed

    async def state(self, jobid: int) -> str:
        """Return the state of a job.

        Raises:
            NotFound: no job has this ID.
            Unavailable: the job may be in the part of the history that is not read yet.
            Lagging: a command on the job is not stored within the limit.
        """
        await self._feed.barrier.wait_job_visible(jobid)
        state = await self._store.state(jobid)
        if state is None:
            raise self.unknown(jobid)
        return state

    async def own_state(self, jobid: int, caller: Caller) -> str:
        """Return the state of a job that the caller may change.

        Raises:
            Forbidden: another caller has submitted it.
            NotFound, Unavailable, Lagging: see :meth:`state`.
        """
        state = await self.state(jobid)
        if "admin" not in caller.scopes:
            caller.require_own(await self._store.submitter(jobid), f"Job {fluid.f58(jobid)}")
        return state

    async def encoded(self, jobid: int) -> bytes:
        """Return a job as JSON.

        Raises:
            NotFound, Unavailable, Lagging: see :meth:`state`.
        """
        await self._feed.barrier.wait_job_visible(jobid)
        job = await self._store.job(jobid)
        if job is None:
            raise self.unknown(jobid)
        return job

    async def job(self, jobid: int) -> Job:
        """Return a job.

        Raises:
            NotFound, Unavailable, Lagging: see :meth:`state`.
        """
        return restored.job(await self.encoded(jobid), jobid)

    async def end_fields(self, jobid: int) -> dict[str, object]:
        """Return the fields of a job that the last event of a stream has."""
        encoded = await self._store.job(jobid)
        if encoded is None:
            return {"id": jobid}
        job = restored.job(encoded, jobid)
        return {name: getattr(job, name) for name in ("id", "f58id", "state", "result", "returncode")}

    def unknown(self, jobid: int) -> Problem:
        """Return the error for a job that the store does not have."""
        if not self._feed.caught_up:  # a client of a server that has just restarted must not take the job for lost
            return Unavailable(f"The history is being read: whether job {fluid.f58(jobid)} exists is not known yet.")
        return NotFound(f"There is no job {fluid.f58(jobid)} ({jobid}).")
