"""Keep the store within its limits: ``--keep-jobs``, ``--keep-for``, and ``--min-free-disk``.

One background task removes the jobs that have ended first, some in each transaction, so that neither the journal's
writes nor reads wait for it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import structlog

from sidecar.journal.feed import Feed
from sidecar.runtime.threads import Workers
from sidecar.store import Store, StoreError
from sidecar.store.retention import SPARE
from sidecar.telemetry.instruments import Instruments

log = structlog.get_logger("retention")

_INTERVAL = 10.0  # seconds between two checks
_BATCH, _PAUSE = 50, 0.05  # jobs of one transaction; seconds after it, for other writes
_PAGES = 256  # of the file, cut off in one step
_MERGED = 0.25  # of the jobs in the store: if more have been removed, the text index is merged
_EARLY = 2  # times --min-free-disk: jobs are removed before /readyz fails
_ALWAYS_KEPT = 1000  # jobs that are kept even on a full disk: others may have filled it
_DISK = "disk"  # the reason for which jobs are removed also while the history is read


class Limits(NamedTuple):
    """What is kept."""

    jobs: int
    """Number of inactive jobs; 0: any number."""
    seconds: float
    """Time since the end of a job; 0: any time."""
    free: int
    """Bytes of free disk space; jobs are removed while less than twice as much is free. 0: never."""


class Retention:
    """Remove inactive jobs beyond the limits.

    Args:
        store: has the jobs.
        feed: the journal; its counts are corrected.
        limits: what is kept.
        instruments: metrics of removed jobs.
        free_bytes: returns the free space of the store's file system; called in a thread.
    """

    def __init__(
        self,
        store: Store,
        feed: Feed,
        limits: Limits,
        instruments: Instruments,
        free_bytes: Callable[[], int] | None = None,
    ) -> None:
        self._store = store
        self._feed = feed
        self._limits = limits
        self._instruments = instruments
        self._free_bytes = free_bytes or self._measured
        self._thread = Workers(1, "disk")
        self._warned = False
        self._unmerged = 0
        """Removed jobs whose texts may still take space in the index."""

    async def run(self) -> None:
        """Check the limits again and again."""
        while True:
            try:
                await self.apply()
            except (StoreError, OSError) as exc:
                log.warning("inactive jobs cannot be removed", reason=str(exc))
            await asyncio.sleep(_INTERVAL)

    async def apply(self) -> None:
        """Remove what is beyond the limits now.

        Raises:
            StoreError: the store cannot be read or written.
            OSError: the free space cannot be read.
        """
        if self._limits.free:
            await self._free_disk()
        if not self._feed.caught_up:  # of a job in the history it would be unknown whether it was counted and removed
            return
        if self._limits.seconds:
            await self._remove("age", None, time.time() - self._limits.seconds)
        if self._limits.jobs:
            await self._remove("number", await self._store.counts.inactive() - self._limits.jobs)
        await self._shrink(SPARE)
        self._instruments.retention_runs.set_to_current_time()

    async def _remove(self, reason: str, left: int | None, before: float | None = None) -> int:
        """Remove jobs; return their number.

        Args:
            reason: label of the metric.
            left: how many; None: all that ended before ``before``.
            before: time (Unix seconds).
        """
        total = 0
        while (left is None or left > total) and (reason == _DISK or self._feed.caught_up):
            count = _BATCH if left is None else min(_BATCH, left - total)
            removed = await self._feed.remove_ended(count, before)
            self._instruments.removed_jobs.labels(reason).inc(removed)
            total += removed
            self._unmerged += removed
            if removed < count:
                break
            await asyncio.sleep(_PAUSE)
        if total:
            log.info("inactive jobs are removed", jobs=total, reason=reason)
        return total

    async def _free_disk(self) -> None:
        """Remove jobs until enough space is free, few inactive jobs are left, or another program reads the file."""
        while (free := await self._thread.run(self._free_bytes)) < _EARLY * self._limits.free:
            inactive = await self._store.counts.inactive()
            if not self._warned:
                self._warned = True
                log.warning(
                    "the disk is nearly full: the jobs that ended first are removed",
                    free_mib=free >> 20, required_mib=self._limits.free >> 20, inactive=inactive,
                )  # fmt: skip
            if not await self._store.checkpoint():
                log.warning("no jobs are removed: the file cannot become shorter while another program reads it")
                return
            count = min(max(_BATCH, inactive // 20), inactive - _ALWAYS_KEPT)
            if count <= 0 or not await self._remove(_DISK, count):
                return
            await self._shrink(spare=0)
        self._warned = False

    async def _shrink(self, spare: int) -> None:
        """Give the space of removed jobs back to the file system."""
        if self._unmerged > _MERGED * await self._store.counts.jobs():
            self._unmerged = 0
            left = await self._store.merge_texts(_PAGES, begin=True)
            while left:
                await asyncio.sleep(_PAUSE)
                left = await self._store.merge_texts(_PAGES, begin=False)
        left = True
        while left:
            left = await self._store.shrink(_PAGES, spare)
            await asyncio.sleep(_PAUSE)

    def _measured(self) -> int:
        stat = os.statvfs(self._store.path.parent)
        return stat.f_bavail * stat.f_frsize
