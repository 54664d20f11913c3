"""Removal of inactive jobs: the first ones first, for good, and without the loss of anything else."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import structlog

from sidecar.api.events import Events
from sidecar.domain.closed import Closed
from sidecar.domain.model import JobEvents, JournalBegin
from sidecar.http.sse import EventStream, StreamLimits
from sidecar.instance.flux import journal
from sidecar.journal.feed import Feed
from sidecar.journal.history_fold import frames
from sidecar.runtime.clock import LoopClock
from sidecar.services.lookup import JobLookup
from sidecar.services.retention import Limits, Retention
from sidecar.store import Filter, LoggedEvents, Store, StoreError
from sidecar.store.counts import Group
from sidecar.store.known import read_only, stored_events
from sidecar.telemetry.instruments import Instruments
from tests.support import typical
from tests.support.journal import END, running
from tests.support.stored import entries


def retention(feed: Feed, store: Store, limits: Limits, **options: int) -> tuple[Retention, Instruments]:
    instruments = Instruments()
    free = options.get("free", 1 << 40)
    return Retention(store, feed, limits, instruments, lambda: free), instruments


def removed(instruments: Instruments, reason: str) -> float | None:
    return instruments.registry.get_sample_value("flux_sidecar_store_removed_jobs_total", {"reason": reason})


def history(feed: Feed, *items: JobEvents) -> None:
    feed.push(JournalBegin("i"))
    for item in (*items, END):
        feed.push(item)


async def jobids(store: Store) -> list[int]:
    return await store.lists.jobids(Filter())


JOBS = [typical.job(number, rate=1.0) for number in range(20)]
#: Jobs whose end is in another order than their IDs: the first one has ended last.
LONG = JobEvents(JOBS[0].id, [*JOBS[0].events[:-1], JOBS[19].events[-1]], JOBS[0].jobspec, JOBS[0].R)
ENDING = [LONG, *JOBS[1:19]]
ACTIVE = JobEvents(JOBS[19].id, JOBS[19].events[:5], JOBS[19].jobspec, JOBS[19].R)


async def test_the_jobs_that_ended_first_are_removed(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *ENDING, ACTIVE)
        await feed.barrier.wait_stored()
        totals = dict(feed.counts.totals)
        position = store.position
        tool, instruments = retention(feed, store, Limits(5, 0, 0))
        await tool.apply()
        kept = [JOBS[0].id, *(each.id for each in JOBS[15:20])]
        assert sorted(await jobids(store)) == sorted(kept)
        assert removed(instruments, "number") == 14
        assert instruments.registry.get_sample_value("flux_sidecar_store_retention_timestamp_seconds")
        assert (await store.job(JOBS[1].id), await store.jobspec(JOBS[1].id)) == (None, None)
        assert await entries(store, JOBS[1].id) == []
        assert len(await entries(store, JOBS[0].id)) == 10
        assert await store.counts.jobs("simulate") == 6
        assert await store.counts.jobs("project-01") == 0
        assert sum(feed.counts.groups.values()) == 6
        assert feed.counts.totals == totals
        assert store.position == position
        assert store.gone.position == 150, "those of job 14 are the last ones"
        await tool.apply()
        assert len(await jobids(store)) == 6


async def test_removed_jobs_do_not_come_back(tmp_path: Path) -> None:
    """The instance still has them, and delivers them at each connect; those that the store never had are added."""
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *ENDING, ACTIVE)
        await feed.barrier.wait_stored()
        await retention(feed, store, Limits(5, 0, 0))[0].apply()
        kept, totals = await jobids(store), dict(feed.counts.totals)
    later = [typical.job(number, rate=1.0) for number in (30, 31)]
    async with running(tmp_path / "s.sqlite") as (feed, store):
        position = store.position
        history(feed, *ENDING, ACTIVE)
        await feed.barrier.wait_stored()
        assert feed.caught_up
        assert await jobids(store) == kept
        assert store.position == position
        assert feed.counts.totals == totals
        history(feed, *ENDING, ACTIVE, *later)
        await feed.barrier.wait_stored()
        assert set(await jobids(store)) == {*kept, *(each.id for each in later)}
        assert store.position == position + 20
        # The active job ends after its store has forgotten those before it.
        feed.push(JobEvents(ACTIVE.id, JOBS[19].events[5:]))
        await feed.barrier.wait_stored()
        assert await store.state(ACTIVE.id) == "INACTIVE"


async def test_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *ENDING, ACTIVE)
        await feed.barrier.wait_stored()
        monkeypatch.setattr("time.time", lambda: JOBS[10].events[-1].timestamp + 100)
        tool, instruments = retention(feed, store, Limits(0, 100.0, 0))
        await tool.apply()
        assert sorted(await jobids(store)) == sorted([JOBS[0].id, *(each.id for each in JOBS[10:20])])
        assert removed(instruments, "age") == 9


async def test_keys_and_positions_stay(tmp_path: Path) -> None:
    """Even if no event is left: positions must not be issued again."""
    path = tmp_path / "s.sqlite"
    store = Store(path)
    await store.open()
    [(rows, logged)] = typical.history(0, 10)
    await store.write([row._replace(key=(f"key {row.id}", "digest")) for row in rows], logged)
    assert len(await store.remove_ended(100)) == 10
    await store.close()
    store = Store(path)
    await store.open()
    assert store.position == 100
    assert await store.events_between(0, 100, 100) == []
    assert [await store.job_of_key(f"key {row.id}") for row in rows] == [(row.id, "digest") for row in rows]
    with closing(sqlite3.connect(path)) as db:
        tables = ("jobs", "documents", "jobspecs", "events", "jobs_text_content")
        assert [db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables] == [0] * 5
    await store.close()


async def test_the_file_becomes_shorter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.sqlite"
    async with running(path) as (feed, store):
        history(feed)
        await feed.barrier.wait_stored()
        for rows, logged in typical.history(0, 2000, store.position):
            await store.write(rows, logged)
        await store.connections.write(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        before = path.stat().st_size
        monkeypatch.setattr("sidecar.services.retention.SPARE", 8)
        monkeypatch.setattr("sidecar.services.retention._PAUSE", 0)
        await retention(feed, store, Limits(100, 0, 0))[0].apply()
        await store.connections.write(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        assert await store.counts.jobs("simulate") == 100
        assert path.stat().st_size < before / 5
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.execute("INSERT INTO jobs_text (jobs_text) VALUES ('integrity-check')")


@pytest.mark.parametrize(("free", "left"), [(29, 5), (30, 20)])
async def test_little_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, left: int) -> None:
    """Before too little is free, jobs are removed; not all, since others may have filled the disk."""
    monkeypatch.setattr("sidecar.services.retention._ALWAYS_KEPT", 5)
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        tool, instruments = retention(feed, store, Limits(0, 0, 15), free=free)
        with structlog.testing.capture_logs() as logs:
            await tool.apply()
            await tool.apply()
        assert len(await jobids(store)) == left
        assert removed(instruments, "disk") == 20 - left
        assert sum("nearly full" in line["event"] for line in logs) == (left == 5)


async def test_a_backup_costs_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program reads the file, a removal frees no space, however many jobs it takes."""
    monkeypatch.setattr("sidecar.services.retention._ALWAYS_KEPT", 5)
    monkeypatch.setattr("sidecar.services.retention._BATCH", 3)
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        with closing(sqlite3.connect(store.path, isolation_level=None)) as backup:
            backup.execute("BEGIN")
            backup.execute("SELECT count(*) FROM jobs").fetchone()
            tool, _ = retention(feed, store, Limits(0, 0, 15), free=20)
            for _ in range(3):
                await tool.apply()
            assert len(await jobids(store)) == 17, "one batch, before the backup is noticed"
            backup.execute("COMMIT")
        await tool.apply()
        assert len(await jobids(store)) == 5


async def test_a_kill_during_a_removal(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    async with running(path) as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
    code = (
        "import os, signal, sys; from pathlib import Path; from sidecar.store import retention, schema\n"
        "delete = retention.delete_jobs\n"
        "def killed(db, jobids):\n"
        "    delete(db, jobids)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "retention.delete_jobs = killed\n"
        "retention.remove(schema.connect(Path(sys.argv[1])), 5, None, lambda gone: None)\n"
    )
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -9
    async with running(path) as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        assert len(await jobids(store)) == 20
        await retention(feed, store, Limits(15, 0, 0))[0].apply()
        assert sorted(await jobids(store)) == [each.id for each in JOBS[5:]]
        assert store.position == 200


async def test_nothing_is_removed_by_number_while_the_history_is_read(tmp_path: Path) -> None:
    """Of a job in the history it would be unknown whether it was counted and removed, or is new."""
    async with running(tmp_path / "s.sqlite") as (feed, store):
        feed.push(JournalBegin("i"))
        for item in JOBS:
            feed.push(item)
        await feed.barrier.wait_stored()
        tool, _ = retention(feed, store, Limits(5, 1, 0))
        await tool.apply()
        assert len(await jobids(store)) == 20
        feed.push(END)
        await feed.barrier.wait_stored()
        await tool.apply()
        assert await jobids(store) == [], "they ended long ago"


@pytest.mark.parametrize(("limits", "left"), [(Limits(5, 0, 0), 5), (Limits(0, 0, 15), 10)])
async def test_jobs_that_are_removed_while_the_history_is_read_count_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits, left: int
) -> None:
    """The connection is lost during a removal: the next history still has these jobs, and the store does not."""
    monkeypatch.setattr("sidecar.services.retention._BATCH", 1)
    monkeypatch.setattr("sidecar.services.retention._ALWAYS_KEPT", 10)
    path = tmp_path / "s.sqlite"
    async with running(path) as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        totals, free = dict(feed.counts.totals), 0 if limits.free else 1 << 40
        feed.history.open = never
        tool, _ = retention(feed, store, limits, free=free)
        removing = asyncio.create_task(tool.apply())
        while not store.gone.position:
            await asyncio.sleep(0)
        history(feed)
        while not feed.live:
            await asyncio.sleep(0)
        until = store.gone.until
        await removing
        with read_only(path) as db:
            texts = [msgspec.json.encode(each) for each in JOBS]
            for frame in frames(texts, journal.decode, lambda jobs: stored_events(db, jobs), until):
                await feed.history.put(frame)
        while not feed.caught_up:
            await asyncio.sleep(0)
        await tool.apply()
        assert sorted(await jobids(store)) == [each.id for each in JOBS[-left:]]
        assert {cell: values[1:] for cell, values in feed.counts.totals.items()} == {
            cell: values[1:] for cell, values in totals.items()
        }
        assert sum(feed.counts.groups.values()) == left


async def never() -> tuple[int, Sequence[str]]:
    """Stand for a process whose frames the test delivers."""
    await asyncio.Event().wait()
    raise AssertionError


async def test_jobs_that_are_removed_while_all_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        counting, by_group = asyncio.Event(), store.counts.by_group

        async def slow() -> list[Group]:
            found = await by_group()
            counting.set()
            await asyncio.sleep(0.1)
            return found

        monkeypatch.setattr(store.counts, "by_group", slow)
        recount = asyncio.create_task(feed._projection.recount())
        await counting.wait()
        await retention(feed, store, Limits(5, 0, 0))[0].apply()
        await recount
        assert sum(feed.counts.groups.values()) == 5


async def test_a_stream_of_a_removed_job_ends(tmp_path: Path) -> None:
    """Its reader was busy with earlier events when the job ended and was removed."""
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        await retention(feed, store, Limits(5, 0, 0))[0].apply()
        limits = StreamLimits(60.0, 60.0, Instruments().count_dropped_stream, LoopClock())
        events, stream = Events(store, feed, JobLookup(store, feed), limits), EventStream(limits)
        with pytest.raises(Closed, match="removed with their jobs") as raised:
            await asyncio.wait_for(events._follow_job(stream, JOBS[0].id, 0), 30)
        assert raised.value.reason == "removed"


async def test_a_stream_of_a_job_that_is_removed_during_a_read_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events that were not read yet are gone: the end must not say that all of them were sent."""
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        limits = StreamLimits(60.0, 60.0, Instruments().count_dropped_stream, LoopClock())
        events, stream = Events(store, feed, JobLookup(store, feed), limits), EventStream(limits)
        read = feed.tail.read

        async def removed_first(after: int, jobid: int | None = None) -> tuple[Sequence[LoggedEvents], int]:
            await retention(feed, store, Limits(5, 0, 0))[0].apply()
            feed.tail.restart()  # from the store: after many other events they are not in memory
            return await read(after, jobid)

        monkeypatch.setattr(feed.tail, "read", removed_first)
        with pytest.raises(Closed) as raised:
            await asyncio.wait_for(events._follow_job(stream, JOBS[0].id, 0), 30)
        assert raised.value.reason == "removed"


async def test_readers_know_of_a_removal_before_it_is_visible(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        known: list[tuple[str, int]] = []
        trace = lambda sql: known.append((sql.split(maxsplit=1)[0], store.gone.position))  # noqa: E731
        await store.connections.write(lambda db: db.set_trace_callback(trace))
        await store.remove_ended(5)
        await store.connections.write(lambda db: db.set_trace_callback(None))
        assert store.gone.position > 0
        assert ("COMMIT", store.gone.position) in known
        assert ("BEGIN", 0) in known


async def test_a_removal_that_fails_is_not_announced(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        history(feed, *JOBS)
        await feed.barrier.wait_stored()
        await store.connections.write(
            lambda db: db.execute(
                "CREATE TEMP TRIGGER full BEFORE INSERT ON main.meta BEGIN SELECT RAISE(ABORT, 'no space'); END"
            )
        )
        with pytest.raises(StoreError):
            await store.remove_ended(5)
        assert store.gone.position == 0
        assert await store.counts.inactive() == len(JOBS)
