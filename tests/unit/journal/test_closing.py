"""Jobs of an instance that is gone are ended in the store, within the time that there is."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import msgspec
import pytest

from sidecar.domain.model import Event, HistoryBegin, Job, JobEvents
from sidecar.journal import closing
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


async def _told(path: Path, *items: HistoryBegin | JobEvents) -> Store:
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in items:
        feed.push(item)
    await feed.close()
    return store


async def _jobs(store: Store) -> dict[int, Job]:
    page = await store.page(Filter(), None, "full")
    return {each.id: each for each in msgspec.json.decode(b"[%b]" % page.json, type=list[Job])}


async def test_a_stop_ends_what_is_left(tmp_path: Path) -> None:
    store = await _told(
        tmp_path / "s.sqlite", HistoryBegin("i"), job(1), job(2, "alloc"), job(3, "alloc", "finish", "clean"), END
    )
    await closing.end_active_jobs(store, within=5.0, stopped=True)
    found = await _jobs(store)
    pending, running, ended = (found[number] for number in (1, 2, 3))
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
    counted.load((), await store.totals())
    assert counted.totals[RESULTS_OF_JOBS.name, ("default", "canceled")] == [1.0]
    assert [row async for row in store.search(Search(text="true"))]
    await store.close()
    # The instance was there after all: its own events have the last word.
    store = await _told(
        tmp_path / "s.sqlite", HistoryBegin("i"), job(1, "alloc"), job(2, "alloc", "finish", "clean"), END
    )
    found = await _jobs(store)
    assert (found[1].state, found[2].result) == ("RUN", "COMPLETED")
    await store.close()


async def test_it_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    store = await _told(tmp_path / "s.sqlite", HistoryBegin("i"), *(job(number) for number in range(1, 1000)), END)
    await closing.end_active_jobs(store, within=0.0)
    assert len(await store.active()) == 999
    async with asyncio.timeout(30):
        await closing.end_active_jobs(store, within=30.0)
    assert await store.active() == []
    await closing.end_active_jobs(store, within=30.0)  # there is nothing left to do
    await store.close()


async def test_a_history_that_is_set_aside_has_no_active_jobs(tmp_path: Path) -> None:
    """Its server was killed, perhaps, and could not end them."""
    store = await _told(tmp_path / "s.sqlite", HistoryBegin("first"), job(1), job(2, "alloc"), END)
    await store.close()
    store = await _told(tmp_path / "s.sqlite", HistoryBegin("second"), job(1), END)
    assert (await _jobs(store))[1].state == "SCHED"
    await store.close()
    [aside] = tmp_path.glob("s.*.first.sqlite")
    found = sqlite3.connect(aside).execute("SELECT id, state, result FROM jobs ORDER BY id").fetchall()
    assert found == [(1, "INACTIVE", "FAILED"), (2, "INACTIVE", "FAILED")]


@pytest.mark.parametrize("events", [2**40, "x"])
async def test_what_cannot_be_read_of_a_job_does_not_keep_it_active(tmp_path: Path, events: object) -> None:
    path = tmp_path / "s.sqlite"
    store = await _told(path, HistoryBegin("i"), job(1), END)
    await store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE documents SET json = ?", (msgspec.json.encode({"id": 1, "project": events, "state": 7}),))
    db.close()
    store = Store(path)
    await store.open()
    await closing.end_active_jobs(store, within=5.0)
    assert await store.active() == []
    ended = (await _jobs(store))[1]
    assert (ended.state, ended.result, ended.exception.type) == ("INACTIVE", "FAILED", "lost")
    await store.close()
