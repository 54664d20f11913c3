"""Find a job for a request, or raise the error that says why there is none."""

from __future__ import annotations

import msgspec

from sidecar.auth.caller import Caller
from sidecar.domain import fluid
from sidecar.domain.errors import NotFound, Problem, Unavailable
from sidecar.domain.model import Job
from sidecar.journal.feed import Feed
from sidecar.store import Store


async def require(store: Store, feed: Feed, job: int) -> str:
    """Return a job's state.

    Raises:
        NotFound: there is no such job.
        Unavailable: it may be in the part of the history that is not read yet.
    """
    await feed.barrier.wait_job_visible(job)
    state = await store.state(job)
    if state is None:
        raise unknown(feed, job)
    return state


async def require_own(store: Store, feed: Feed, job: int, caller: Caller) -> str:
    """Return the state of a job that is the caller's to change.

    Raises:
        Forbidden: it is somebody else's.
        NotFound: there is no such job.
        Unavailable: it may be in the part of the history that is not read yet.
    """
    state = await require(store, feed, job)
    if "admin" not in caller.scopes:
        caller.require_own(await store.submitter(job), f"Job {fluid.f58(job)}")
    return state


def unknown(feed: Feed, job: int) -> Problem:
    """Return the error for a job that the store does not know."""
    if not feed.caught_up:  # who comes back to a server that has just begun must not be told that the job is gone
        return Unavailable(f"The history is being read: whether there is a job {fluid.f58(job)} is not known yet.")
    return NotFound(f"There is no job {fluid.f58(job)} ({job}).")


async def ending(store: Store, job: int) -> dict[str, object]:
    """Return what the last event of a stream says of a job."""
    found = await store.job(job)
    if found is None:
        return {"id": job}
    decoded = msgspec.json.decode(found, type=Job)
    return {name: getattr(decoded, name) for name in ("id", "f58id", "state", "result", "returncode")}
