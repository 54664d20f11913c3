"""Reads of the store for tests."""

from __future__ import annotations

from sidecar.store import Store, StoredEvent


async def entries(store: Store, jobid: int) -> list[StoredEvent]:
    """Return a job's whole eventlog."""
    return [entry async for logged in store.eventlog(jobid) for _, entry in logged.entries(0)]
