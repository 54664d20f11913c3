"""Journal items, and a feed with a store, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sidecar.domain.model import Event, JobEvents
from sidecar.journal.feed import Feed
from sidecar.store import Store
from sidecar.telemetry.instruments import Instruments

END = JobEvents(-1, [])
"""End of the history."""


def job(number: int, *names: str) -> JobEvents:
    """Return the first events of a job, with its jobspec: submit, validate, then these."""
    events = [Event(float(number), "submit", {"userid": 0, "urgency": 16}), Event(number + 0.05, "validate", {})]
    events += [Event(number + 0.1, name, {"status": 0} if name == "finish" else {}) for name in names]
    return JobEvents(number, events, jobspec={"tasks": [{"command": ["true"]}], "resources": [], "attributes": {}})


def live(number: int, name: str) -> JobEvents:
    """Return one later event of a job."""
    return JobEvents(number, [Event(number + 0.2, name, {"status": 0} if name == "finish" else {})])


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[Feed, Store]]:
    """Run a feed with a store at this path."""
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    yield feed, store
    await feed.close()
    await store.close()


async def wait_stored(feed: Feed, number: int) -> None:
    """Wait until a job is in the store, as a read does after a submit."""
    feed.barrier.note_accepted(number)
    await feed.barrier.wait_job_visible(number)
    assert not feed.barrier.is_pending(number)
