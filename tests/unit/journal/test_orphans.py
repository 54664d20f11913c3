"""Active jobs of an instance that has ended are ended in the store, within a time limit."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sidecar.domain.model import Event, Job, JobEvents, JournalBegin
from sidecar.journal import orphans
from sidecar.journal.counts import JobCounts
from sidecar.journal.feed import Feed
from sidecar.store import Filter, Search, Store
from sidecar.telemetry.instruments import Instruments
from sidecar.telemetry.metrics import RESULTS_OF_JOBS
from tests.support.stored import entries

END = JobEvents(-1, [])


def job(number: int, *names: str) -> JobEvents:
    events = [Event(float(number), "submit", {"userid": 0, "urgency": 16}), Event(number + 0.1, "validate", {}), Event(number + 0.2, "depend", {}), Event(number + 0.3, "priority", {"priority": 16})]  # fmt: skip
    events += [Event(number + 0.4, name, {}) for name in names]
    return JobEvents(number, events, jobspec={"tasks": [{"command": ["true"]}], "resources": [], "attributes": {}})


async def _stored(path: Path, *items: JournalBegin | JobEvents) -> Store:
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in items:
        feed.push(item)
    await feed.close()
    return store


async def _jobs(store: Store) -> dict[int, Job]:
    page = await store.lists.page(Filter(), None, "full")
    return {each.id: each for each in msgspec.json.decode(b"[%b]" % page.json, type=list[Job])}


async def test_a_stop_ends_active_jobs(tmp_path: Path) -> None:
    store = await _stored(
        tmp_path / "s.sqlite", JournalBegin("i"), job(1), job(2, "alloc"), job(3, "alloc", "finish", "clean"), END
    )
    await orphans.end_active_jobs(store, within=5.0, stopped=True)
    jobs = await _jobs(store)
    pending, running, ended = (jobs[number] for number in (1, 2, 3))
    assert (ended.result, ended.exception.occurred) == ("COMPLETED", False)
    assert (running.state, running.result, running.exception.type) == ("INACTIVE", "FAILED", "lost")
    assert "before the end of this job was seen" in running.exception.note
    assert (pending.state, pending.result, pending.exception.type) == ("INACTIVE", "CANCELED", "cancel")
    assert [entry.name for entry in await entries(store, 1)] == [
        "submit",
        "validate",
        "depend",
        "priority",
        "exception",
        "clean",
    ]
    counted = JobCounts()
    counted.load((), await store.counts.totals())
    assert counted.totals[RESULTS_OF_JOBS.name, ("default", "canceled")] == [1.0]
    assert [row async for row in store.lists.search(Search(text="true"))]
    await store.close()
    # The instance had not ended after all: its own events take precedence.
    store = await _stored(
        tmp_path / "s.sqlite", JournalBegin("i"), job(1, "alloc"), job(2, "alloc", "finish", "clean"), END
    )
    jobs = await _jobs(store)
    assert (jobs[1].state, jobs[2].result) == ("RUN", "COMPLETED")
    await store.close()


async def test_the_time_limit(tmp_path: Path) -> None:
    store = await _stored(tmp_path / "s.sqlite", JournalBegin("i"), *(job(number) for number in range(1, 1000)), END)
    await orphans.end_active_jobs(store, within=0.0)
    assert len(await store.active_jobids()) == 999
    async with asyncio.timeout(30):
        await orphans.end_active_jobs(store, within=30.0)
    assert await store.active_jobids() == []
    await orphans.end_active_jobs(store, within=30.0)  # there are no active jobs
    await store.close()


async def test_a_store_that_is_set_aside_has_no_active_jobs(tmp_path: Path) -> None:
    """Its server may have been killed before it could end them."""
    store = await _stored(tmp_path / "s.sqlite", JournalBegin("first"), job(1), job(2, "alloc"), END)
    await store.close()
    store = await _stored(tmp_path / "s.sqlite", JournalBegin("second"), job(1), END)
    assert (await _jobs(store))[1].state == "SCHED"
    await store.close()
    [aside] = tmp_path.glob("s.*.first.sqlite")
    with closing(sqlite3.connect(aside)) as db:
        rows = db.execute("SELECT id, state, result FROM jobs ORDER BY id").fetchall()
    assert rows == [(1, "INACTIVE", "FAILED"), (2, "INACTIVE", "FAILED")]


@pytest.mark.parametrize("project", [2**40, "x"])
async def test_an_unreadable_job_is_ended(tmp_path: Path, project: object) -> None:
    path = tmp_path / "s.sqlite"
    store = await _stored(path, JournalBegin("i"), job(1), END)
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE documents SET json = ?", (msgspec.json.encode({"id": 1, "project": project, "state": 7}),))
    db.close()
    store = Store(path)
    await store.open()
    await orphans.end_active_jobs(store, within=5.0)
    assert await store.active_jobids() == []
    ended = (await _jobs(store))[1]
    assert (ended.state, ended.result, ended.exception.type) == ("INACTIVE", "FAILED", "lost")
    await store.close()
