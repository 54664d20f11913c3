"""What a store holds, as tests look at it."""

from __future__ import annotations

from sidecar.store import Store, StoredEvent


async def entries(store: Store, job: int) -> list[StoredEvent]:
    """Return a job's whole eventlog."""
    return [entry async for told in store.eventlog(job) for _, entry in told.entries(0)]
