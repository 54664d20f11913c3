"""Rows of the store that are not what was written: every other job is served as ever, and the cause is logged once."""

from __future__ import annotations

import sqlite3
from contextlib import closing as closed
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from sidecar.domain.model import Event, HistoryBegin, Job, JobEvents
from sidecar.journal import closing
from sidecar.journal.counts import JobCounts
from sidecar.journal.feed import Feed
from sidecar.store import Filter, Search, Store
from sidecar.telemetry.instruments import Instruments
from tests.support.stored import entries

END = JobEvents(-1, [])
SPEC = {"tasks": [{"command": ["true"]}], "resources": [], "attributes": {"system": {"job": {"name": "named"}}}}
#: What may stand in a cell of JSON.
CELLS = [b"", b"{", b"5", b"\xff\xfe", b'{"id":2,"name":"\xff"}', b"[" * 3000, b'[{"timestamp":"x"}]']
PLACES = ["documents SET json", "jobs SET brief", "jobspecs SET json", "events SET json"]


def job(number: int, *names: str) -> JobEvents:
    events = [Event(float(number), "submit", {"userid": 0, "urgency": 16}), Event(number + 0.1, "validate"), Event(number + 0.2, "depend"), Event(number + 0.3, "priority", {"priority": 16})]  # fmt: skip
    return JobEvents(number, [*events, *(Event(number + 0.4, name) for name in names)], jobspec=SPEC)


async def written(path: Path) -> None:
    """Jobs 1 and 2 wait, 3 has ended."""
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in (HistoryBegin("i"), job(1), job(2), job(3, "alloc", "finish", "clean"), END):
        feed.push(item)
    await feed.close()
    await store.close()


def damage(path: Path, sql: str, *values: Any) -> None:
    with closed(sqlite3.connect(path)) as db, db:
        db.execute(sql, values)


async def read_everything(store: Store) -> dict[int, Job]:
    """Read all that the API and the pages do."""
    listed = msgspec.json.decode(b"[%b]" % (await store.page(Filter(), None, "full")).json, type=list[dict[str, Any]])
    briefs = msgspec.json.decode(b"[%b]" % (await store.page(Filter(), 10)).json)
    keyed = msgspec.json.decode(b"{%b}" % (await store.page(Filter(), 10, "keyed")).json)
    searched = msgspec.json.decode(b"[%b]" % b",".join([piece async for piece in store.search(Search())]))
    table = await store.table(Search(length=10), Filter(), msgspec.json.decode)
    assert [len(each) for each in (listed, briefs, keyed, searched, table)] == [3] * 5
    for number in (1, 2, 3):
        assert msgspec.json.decode(await store.job(number) or b"")
        assert await entries(store, number) is not None
        assert (await store.ends(number, 10))[1] == 0
        assert all(each.name == "exception" for each in await store.exceptions(number))
        assert msgspec.json.decode(await store.jobspec(number) or b"") is not None
        assert await store.record(number) is not None
        assert await store.state(number)
    told = await store.told(0, 100, 100)
    assert {each.job for each in told} == {1, 2, 3}
    for each in told:
        assert list(each.entries(0)) is not None
    await store.kinds()
    await store.progress()
    return {each["id"]: each for each in listed}  # type: ignore[misc]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cell", CELLS)
async def test_any_cell(tmp_path: Path, place: str, cell: bytes) -> None:
    path = tmp_path / "s.sqlite"
    await written(path)
    column = "job" if "jobs SET" not in place else "id"
    damage(path, f"UPDATE {place} = CAST(? AS TEXT) WHERE {column} = 2", cell)
    with structlog.testing.capture_logs() as logged:
        store = Store(path)
        await store.open()
        before = await read_everything(store)
        assert {number: before[number]["name"] for number in (1, 3)} == {1: "named", 3: "named"}  # type: ignore[index]
        parts = [line for line in logged if line.get("job") == 2]
        assert len(parts) <= 1
        # Its events go on, and so do the feed and all others.
        feed = Feed(store, Instruments())
        feed.start()
        for item in (
            HistoryBegin("i"),
            job(1, "alloc"),
            job(2, "alloc", "finish", "clean"),
            job(3, "alloc", "finish", "clean"),
            END,
        ):
            feed.push(item)
        await feed.close()
        assert feed.caught_up
        assert feed.active == 1
        after = await read_everything(store)
        assert (after[2]["state"], after[2]["name"]) == ("INACTIVE", "named")  # type: ignore[index]
        await store.close()


@pytest.mark.parametrize("cell", [b"\xff", b"{", b'{"id":2,"state":7,"project":5}'])
async def test_a_job_that_goes_on_and_one_that_its_instance_has_forgotten(
    tmp_path: Path, cell: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s.sqlite"
    await written(path)
    damage(path, "UPDATE documents SET json = CAST(? AS TEXT) WHERE job IN (1, 2)", cell)
    store = Store(path)
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in (HistoryBegin("i"), job(1), END):
        feed.push(item)
    feed.push(JobEvents(1, [Event(9.0, "alloc")]))
    feed.push(JobEvents(1, [Event(9.1, "finish", {"status": 0}), Event(9.2, "clean")]))
    await feed.close()
    assert feed.active == 0
    jobs = await read_everything(store)
    assert (jobs[1]["result"], jobs[2]["result"]) == ("COMPLETED", "FAILED")  # type: ignore[index]
    assert jobs[2]["exception_type"] == "lost"  # type: ignore[index]
    await closing.end_active_jobs(store, within=1.0)
    await store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE jobs SET state = CAST(x'ff' AS TEXT) WHERE id = 2", "UPDATE jobs SET state = 'RUX' WHERE id = 2", "UPDATE jobs SET queue = x'ff00' WHERE id = 2",
        "UPDATE jobs SET username = CAST(x'c328' AS TEXT) WHERE id = 2", "UPDATE jobs SET nevents = 'many' WHERE id = 2", "UPDATE jobs SET name = CAST(x'80' AS TEXT) WHERE id = 2",
        "UPDATE jobs SET userid = 'root', nnodes = 'x' WHERE id = 2", "UPDATE totals SET value = x'ff'", "UPDATE totals SET labels = '{'", "UPDATE totals SET value = '[1e999]'",
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
    JobCounts().load(await store.kinds(), await store.totals())
    feed = Feed(store, Instruments())
    feed.start()
    for item in (HistoryBegin("i"), job(1), job(2), END):
        feed.push(item)
    await feed.close()
    assert feed.caught_up
    assert feed.active == 2
    await store.close()
