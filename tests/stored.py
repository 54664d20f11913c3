"""What a store holds, as tests look at it."""

from __future__ import annotations

from sidecar.store import Store, Stored


async def entries(store: Store, job: int) -> list[Stored]:
    """Return a job's whole eventlog."""
    return [entry async for told in store.eventlog(job) for _, entry in told.entries(0)]
