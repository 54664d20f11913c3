"""Damaged rows of the store: every other job is served as before, and the damage is logged once."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from sidecar.domain.model import Event, Job, JobEvents, JournalBegin
from sidecar.journal import orphans
from sidecar.journal.counts import JobCounts
from sidecar.journal.feed import Feed
from sidecar.store import Filter, Search, Store
from sidecar.telemetry.instruments import Instruments
from tests.support.stored import entries

END = JobEvents(-1, [])
SPEC = {"tasks": [{"command": ["true"]}], "resources": [], "attributes": {"system": {"job": {"name": "named"}}}}
#: Damaged content of a JSON cell.
CELLS = [b"", b"{", b"5", b"\xff\xfe", b'{"id":2,"name":"\xff"}', b"[" * 3000, b'[{"timestamp":"x"}]']
COLUMNS = ["documents SET json", "jobs SET f58id", "jobspecs SET json", "events SET json"]


def job(number: int, *names: str) -> JobEvents:
    events = [Event(float(number), "submit", {"userid": 0, "urgency": 16}), Event(number + 0.1, "validate"), Event(number + 0.2, "depend"), Event(number + 0.3, "priority", {"priority": 16})]  # fmt: skip
    return JobEvents(number, [*events, *(Event(number + 0.4, name) for name in names)], jobspec=SPEC)


async def written(path: Path) -> None:
    """Write a store in which jobs 1 and 2 are pending and 3 has ended."""
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in (JournalBegin("i"), job(1), job(2), job(3, "alloc", "finish", "clean"), END):
        feed.push(item)
    await feed.close()
    await store.close()


def damage(path: Path, sql: str, *values: Any) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


async def read_everything(store: Store) -> dict[int, Job]:
    """Call all reads of the API and the pages."""
    listed = msgspec.json.decode(
        b"[%b]" % (await store.lists.page(Filter(), None, "full")).json, type=list[dict[str, Any]]
    )
    briefs = msgspec.json.decode(b"[%b]" % (await store.lists.page(Filter(), 10)).json)
    keyed = msgspec.json.decode(b"{%b}" % (await store.lists.page(Filter(), 10, "keyed")).json)
    searched = msgspec.json.decode(b"[%b]" % b",".join([chunk async for chunk in store.lists.search(Search())]))
    table = await store.lists.table(Search(length=10), Filter(), msgspec.json.decode)
    assert [len(each) for each in (listed, briefs, keyed, searched, table)] == [3] * 5
    for number in (1, 2, 3):
        assert msgspec.json.decode(await store.job(number) or b"")
        assert await entries(store, number) is not None
        assert (await store.eventlog_ends(number, 10))[1] == 0
        assert all(each.name == "exception" for each in await store.exceptions(number))
        assert msgspec.json.decode(await store.jobspec(number) or b"") is not None
        assert await store.record(number) is not None
        assert await store.state(number)
    logged = await store.events_between(0, 100, 100)
    assert {each.jobid for each in logged} == {1, 2, 3}
    for each in logged:
        assert list(each.entries(0)) is not None
    await store.counts.by_group()
    await store.counts.events_of([1, 2, 3])
    return {each["id"]: each for each in listed}  # type: ignore[misc]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("cell", CELLS)
async def test_any_cell(tmp_path: Path, column: str, cell: bytes) -> None:
    path = tmp_path / "s.sqlite"
    await written(path)
    key = "job" if "jobs SET" not in column else "id"
    damage(path, f"UPDATE {column} = CAST(? AS TEXT) WHERE {key} = 2", cell)
    with structlog.testing.capture_logs() as logs:
        store = Store(path)
        await store.open()
        before = await read_everything(store)
        assert {number: before[number]["name"] for number in (1, 3)} == {1: "named", 3: "named"}  # type: ignore[index]
        parts = [line for line in logs if line.get("job") == 2]
        assert len(parts) <= 1
        # Its next events are processed, and those of all other jobs.
        feed = Feed(store, Instruments())
        feed.start()
        for item in (
            JournalBegin("i"),
            job(1, "alloc"),
            job(2, "alloc", "finish", "clean"),
            job(3, "alloc", "finish", "clean"),
            END,
        ):
            feed.push(item)
        await feed.close()
        assert feed.caught_up
        assert feed.active_count == 1
        after = await read_everything(store)
        assert (after[2]["state"], after[2]["name"]) == ("INACTIVE", "named")  # type: ignore[index]
        await store.close()


@pytest.mark.parametrize("cell", [b"\xff", b"{", b'{"id":2,"state":7,"project":5}'])
async def test_a_running_job_and_a_purged_job(tmp_path: Path, cell: bytes) -> None:
    path = tmp_path / "s.sqlite"
    await written(path)
    damage(path, "UPDATE documents SET json = CAST(? AS TEXT) WHERE job IN (1, 2)", cell)
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in (JournalBegin("i"), job(1), END):
        feed.push(item)
    feed.push(JobEvents(1, [Event(9.0, "alloc")]))
    feed.push(JobEvents(1, [Event(9.1, "finish", {"status": 0}), Event(9.2, "clean")]))
    await feed.close()
    assert feed.active_count == 0
    jobs = await read_everything(store)
    assert (jobs[1]["result"], jobs[2]["result"]) == ("COMPLETED", "FAILED")  # type: ignore[index]
    assert jobs[2]["exception_type"] == "lost"  # type: ignore[index]
    await orphans.end_active_jobs(store, within=1.0)
    await store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE jobs SET state = CAST(x'ff' AS TEXT) WHERE id = 2", "UPDATE jobs SET state = 'RUX' WHERE id = 2", "UPDATE jobs SET queue = x'ff00' WHERE id = 2",
        "UPDATE jobs SET username = CAST(x'c328' AS TEXT) WHERE id = 2", "UPDATE jobs SET nevents = 'many' WHERE id = 2", "UPDATE jobs SET name = CAST(x'80' AS TEXT) WHERE id = 2",
        "UPDATE jobs SET userid = 'root', nnodes = 'x' WHERE id = 2", "UPDATE jobs SET num = 3, since = 'x' WHERE id = 2", "UPDATE documents SET job = 7 WHERE job = 2", "UPDATE totals SET value = x'ff'", "UPDATE totals SET labels = '{'", "UPDATE totals SET value = '[1e999]'",
        "UPDATE documents SET running = 'x' WHERE job = 2",
    ],
)  # fmt: skip
async def test_any_column(tmp_path: Path, sql: str) -> None:
    path = tmp_path / "s.sqlite"
    await written(path)
    damage(path, sql)
    store = Store(path)
    await store.open()
    jobs = await read_everything(store)
    assert jobs[1]["name"] == jobs[3]["name"] == "named"  # type: ignore[index]
    JobCounts().load(await store.counts.by_group(), await store.counts.totals())
    feed = Feed(store, Instruments())
    feed.start()
    for item in (JournalBegin("i"), job(1), job(2), END):
        feed.push(item)
    await feed.close()
    assert feed.caught_up
    assert feed.active_count == 2
    await store.close()
