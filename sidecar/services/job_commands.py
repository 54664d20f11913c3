"""Commands on jobs: cancel, signal, change the urgency.

Each command is reported to the journal once Flux has carried it out, so that every later read reflects it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from sidecar.auth.caller import Caller
from sidecar.domain import fluid
from sidecar.domain.errors import Ended, Forbidden, NotFound, Problem, Unavailable
from sidecar.domain.model import ACTIVE
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.services.lookup import JobLookup
from sidecar.store import Filter, Store

_CONCURRENT = 256  # cancels that are under way at the same time


class NotCancelled(msgspec.Struct):
    """A job that could not be cancelled."""

    id: Annotated[int, Meta(description="job ID; may exceed 2^53")]
    f58id: Annotated[str, Meta(description="job ID as F58")]
    detail: Annotated[str, Meta(description="the reason")]


class CancelSummary(NamedTuple):
    """The results of cancelling several jobs."""

    matched: int
    ended: int
    """Jobs that had ended before the cancel reached them."""
    failed: list[NotCancelled]

    @property
    def cancelled(self) -> int:
        """How many jobs Flux was asked to cancel."""
        return self.matched - self.ended - len(self.failed)


class JobCommands:
    """Carry out commands on jobs for a caller.

    Args:
        lookup: finds a job, and checks that the caller may change it.
        store: selects jobs by filter.
        feed: the journal, which is notified of each command.
        instance: carries out the commands.
    """

    def __init__(self, lookup: JobLookup, store: Store, feed: Feed, instance: Instance) -> None:
        self._lookup = lookup
        self._store = store
        self._feed = feed
        self._instance = instance

    async def cancel(self, jobid: int, reason: str, caller: Caller) -> None:
        """Cancel a job; Flux has taken the request when this returns, and the job ends a moment later.

        Raises:
            Ended: the job has ended already.
            Forbidden: another caller has submitted it.
            NotFound: no job has this ID.
            Unavailable: the instance does not answer, or the job is not known yet.
        """
        await self._require_active(jobid, "cancelled", caller)
        await self._instance.cancel(jobid, reason)
        self._feed.barrier.note_command(jobid, caller.name)

    async def signal(self, jobid: int, number: int, caller: Caller) -> None:
        """Send a signal to every task of a running job.

        Raises:
            Conflict: the job does not run.
            Forbidden, NotFound, Unavailable: see :meth:`cancel`.
        """
        await self._require_active(jobid, "signalled", caller)
        await self._instance.send_signal(jobid, number)
        self._feed.barrier.note_command(jobid, caller.name)

    async def set_urgency(self, jobid: int, urgency: int, caller: Caller) -> int:
        """Change the urgency of a pending job; return the urgency that it had.

        Raises:
            Conflict: the job is no longer pending.
            Forbidden: another caller has submitted it, or the urgency needs the scope admin.
            NotFound, Unavailable: see :meth:`cancel`.
        """
        caller.require_urgency(urgency)
        await self._require_active(jobid, "reprioritized", caller)
        old = await self._instance.set_urgency(jobid, urgency)
        self._feed.barrier.note_command(jobid, caller.name)
        return old

    async def select(self, where: Filter, caller: Caller) -> list[int]:
        """Return the IDs of all active jobs that match a filter; without the scope admin only the caller's own.

        Raises:
            Forbidden: the filter names another submitter, and the caller lacks the scope admin.
            Lagging: jobs that were accepted before are not stored within the limit.
            Unavailable: the instance does not answer, or the active jobs are not known yet.
        """
        own = "admin" not in caller.scopes
        if own:
            if where.submitter not in (None, caller.name):
                raise Forbidden(f"submitter: jobs of other callers than {caller.name} need the scope admin.")
            where = msgspec.structs.replace(where, submitter=caller.name)
        self._instance.status.require_ready()
        if not self._feed.live:
            raise Unavailable("The active jobs are being read: which jobs match is not known yet.")
        await self._feed.barrier.wait_visible(where.submitter if own else None)
        states = tuple(state for state in where.states or ACTIVE if state != "INACTIVE")
        return await self._store.lists.jobids(msgspec.structs.replace(where, states=states)) if states else []

    async def cancel_all(self, jobids: list[int], reason: str, caller: Caller) -> CancelSummary:
        """Cancel jobs that :meth:`select` has returned, many at the same time."""
        ended = 0
        failed: list[NotCancelled] = []
        remaining = iter(jobids)

        async def work() -> None:
            nonlocal ended
            for jobid in remaining:
                try:
                    await self._instance.cancel(jobid, reason)
                    self._feed.barrier.note_command(jobid, caller.name)
                except (Ended, NotFound):  # NotFound: Flux has purged the job
                    ended += 1
                except Problem as exc:
                    failed.append(NotCancelled(jobid, fluid.f58(jobid), exc.detail))

        await asyncio.gather(*(work() for _ in range(min(_CONCURRENT, len(jobids)))))
        return CancelSummary(len(jobids), ended, failed)

    async def _require_active(self, jobid: int, verb: str, caller: Caller) -> None:
        """Refuse a command on an ended job; any other state may be out of date, and Flux checks it."""
        if await self._lookup.own_state(jobid, caller) == "INACTIVE":
            raise Ended(f"Job cannot be {verb}: {fluid.f58(jobid)} has ended already.")
