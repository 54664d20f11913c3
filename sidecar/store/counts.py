"""Counts of jobs and events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from sidecar.domain.errors import StoreError
from sidecar.domain.model import ACTIVE
from sidecar.store.connections import Connections
from sidecar.store.known import stored_events
from sidecar.store.query import Search

_MAX_TEXTS = 1000  # search texts with cached counts
_GROUPS = """
SELECT queue, state, 0, 0, 0, count(*) FROM jobs WHERE state != 'SCHED' GROUP BY queue, state
UNION ALL
SELECT queue, state, coalesce(held, 0), iif(held, 0, CAST(coalesce(nnodes, 0) AS INTEGER)),
  iif(held, 0, CAST(coalesce(ncores, 0) AS INTEGER)), count(*) FROM jobs WHERE state = 'SCHED' GROUP BY 1, 2, 3, 4, 5
"""

Group = tuple[str, str, bool, int, int, int]
"""Queue, state, and only in SCHED whether held, requested nodes and cores; then the number of jobs."""


class Counts:
    """Count jobs and events, in threads.

    Args:
        connections: of the store's file.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._matches: dict[str, asyncio.Future[list[Any]]] = {}
        self._revision = -1

    async def jobs(self, text: str = "") -> int:
        """Return the number of jobs that match a search text; without one the number of all jobs.

        The time grows with the number of matches, so the query runs once per text until the next write, however many
        requests wait for it.
        """
        revision = self._connections.revision
        if self._revision != revision or len(self._matches) >= _MAX_TEXTS:
            self._matches, self._revision = {}, revision
        if text not in self._matches:
            sql, values = Search(text=text).count()
            self._matches[text] = asyncio.ensure_future(self._connections.fetch_in_thread(sql, values))
        try:
            return int((await asyncio.shield(self._matches[text]))[0][0])
        except StoreError:
            self._matches.clear()
            raise

    async def inactive(self) -> int:
        """Return the number of jobs that have ended."""
        sql = "SELECT count(*) FROM jobs WHERE state = 'INACTIVE'"
        [[count]] = await self._connections.fetch_in_thread(sql)
        return int(count)

    async def by_group(self) -> list[Group]:
        """Return the number of jobs in each group."""
        return await self._connections.fetch_in_thread(_GROUPS)

    async def by_queue(self) -> dict[str, dict[str, int]]:
        """Return the number of active jobs by queue and state; inactive ones may be very many."""
        marks = ", ".join("?" * len(ACTIVE))
        sql = f"SELECT queue, state, count(*) FROM jobs WHERE state IN ({marks}) GROUP BY queue, state"  # noqa: S608
        counts: dict[str, dict[str, int]] = {}
        for queue, state, count in await self._connections.fetch_in_thread(sql, ACTIVE):
            counts.setdefault(queue, {})[state] = count
        return counts

    async def by_user(self) -> dict[tuple[str, str], int]:
        """Return the number of jobs by user and state, where the submitter counts as the user if there is one."""
        sql = "SELECT iif(submitter = '', username, submitter), lower(state), count(*) FROM jobs GROUP BY 1, 2"
        return {(user, state): count for user, state, count in await self._connections.fetch_in_thread(sql)}

    async def events_of(self, jobids: Sequence[int]) -> dict[int, int]:
        """Return the number of stored events of some jobs; see :func:`~sidecar.store.known.stored_events`."""
        return await self._connections.read_in_thread(lambda db: stored_events(db, jobids))

    async def totals(self) -> list[tuple[str, str, str]]:
        """Return name, labels and value of the metrics that were written."""
        return await self._connections.fetch_in_thread("SELECT name, labels, value FROM totals")
