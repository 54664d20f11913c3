"""The feed with a real store: in any order of history and live events, each job is stored once, and correct."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.api.events import Events
from sidecar.domain.errors import Lagging
from sidecar.domain.model import Event, JobEvents, JournalBegin
from sidecar.http.sse import EventStream, StreamLimits
from sidecar.journal.tail import Tail
from sidecar.runtime.clock import LoopClock
from sidecar.services.lookup import JobLookup
from sidecar.store import Filter, LoggedEvents, Store, StoreError, inserts, writer
from sidecar.telemetry.instruments import Instruments
from tests.support.journal import END, job, live, running, wait_stored
from tests.support.stored import entries


async def states(store: Store) -> dict[int, str]:
    jobs = msgspec.json.decode(b"[%b]" % (await store.lists.page(Filter(), None)).json)
    return {each["id"]: each["state"] for each in jobs}


async def test_history_then_live(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for item in (JournalBegin("i"), job(1, "finish", "clean"), job(2), END, live(2, "finish"), job(3)):
            feed.push(item)
        await wait_stored(feed, 3)
        assert feed.caught_up
        assert await states(store) == {1: "INACTIVE", 2: "CLEANUP", 3: "DEPEND"}
        assert feed.active_count == 2
        for number in (2, 3):
            feed.push(live(number, "clean"))
        await asyncio.wait_for(feed.wait_idle(), 60)
        assert feed.active_count == 0


async def test_a_second_history_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    jobs = [job(n, "finish", "clean") for n in range(1, 700)]
    items: list[JournalBegin | JobEvents] = [JournalBegin("i"), *jobs, job(700, "finish"), END]
    seen = []
    for _ in range(2):
        async with running(path) as (feed, store):
            for item in [*items, *items]:
                feed.push(item)
            feed.push(live(700, "memo"))
            await feed.close()
            seen.append([chunk async for chunk in store.lists.chunks(Filter(), None, "full")])
    assert seen[0] == seen[1]
    assert len(msgspec.json.decode(b"[%b]" % b",".join(seen[0]))) == 700


async def test_purged_jobs_are_kept(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for item in (JournalBegin("i"), job(1, "finish", "clean"), job(2), END, JournalBegin("i"), END, job(3)):
            feed.push(item)
        await wait_stored(feed, 3)
        assert await states(store) == {1: "INACTIVE", 2: "INACTIVE", 3: "DEPEND"}
        raw = await store.job(2)
        assert raw is not None
        assert msgspec.json.decode(raw)["exception"]["type"] == "lost"


async def test_an_invalid_job_is_removed(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        refused = JobEvents(1, job(1).events[:1], jobspec=job(1).jobspec)
        exception = JobEvents(1, [Event(1.1, "exception", {"type": "validate", "severity": 0, "note": "no"})])
        for item in (JournalBegin("i"), END, refused, exception, live(1, "invalidate"), job(2)):
            feed.push(item)
        await wait_stored(feed, 2)
        assert await states(store) == {2: "DEPEND"}
        assert await store.counts.jobs("true") == 1
        assert {each.jobid for each in await store.events_between(0, 100, 100)} == {2}, "an invalid job has no events"
        assert not any(metric == "flux_job_exceptions_total" for metric, _ in feed.counts.totals)
        assert feed.active_count == 1


async def test_events_of_a_job_are_published_once_it_is_valid(tmp_path: Path) -> None:
    """The submit event comes alone, as it does live, even if a history begins in between."""
    whole = job(1)
    first = JobEvents(1, whole.events[:1], jobspec=whole.jobspec)
    for between in ((), (JournalBegin("i"), first, END)):
        async with running(tmp_path / f"{len(between)}.sqlite") as (feed, store):
            for item in (JournalBegin("i"), END, first, *between, live(1, "validate"), live(1, "depend")):
                feed.push(item)
            await wait_stored(feed, 1)
            await asyncio.wait_for(feed.barrier.wait_stored(), 60)
            names = [entry.name for each in await store.events_between(0, 100, 100) for _, entry in each.entries(0)]
            assert names == ["submit", "validate", "depend"]
            assert await states(store) == {1: "PRIORITY"}


async def test_an_invalid_event_does_not_stop_the_feed(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        invalid = JobEvents(1, [Event(2.0, "urgency", {"urgency": "high"})])
        for item in (JournalBegin("i"), END, job(1), invalid, job(2)):
            feed.push(item)
        await wait_stored(feed, 2)
        assert feed.running
        assert await states(store) == {1: "DEPEND", 2: "DEPEND"}


async def test_a_job_without_events_stays_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, _):
        feed.push(JournalBegin("i"))
        feed.push(END)
        await feed.wait_idle()
        feed.barrier.note_accepted(5, "alice")
        for _ in range(2):
            for read in (
                feed.barrier.wait_visible(),
                feed.barrier.wait_visible("alice"),
                feed.barrier.wait_job_visible(5),
            ):
                with monkeypatch.context() as patched:
                    patched.setattr("sidecar.journal.barrier.TIMEOUT", 0.01)
                    with pytest.raises(Lagging) as raised:
                        await read
                assert raised.value.status == 503
                assert int(raised.value.headers["Retry-After"]) >= 1
                assert msgspec.to_builtins(raised.value.body())["lag"] > 0
        assert feed.barrier.is_pending(5)
        feed.push(job(5))
        await feed.barrier.wait_job_visible(5)
        await feed.barrier.wait_visible()


async def test_another_instance_sets_the_store_aside(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    async with running(path) as (feed, store):
        for item in (JournalBegin("first"), END, job(1), JournalBegin("second"), END, job(2)):
            feed.push(item)
        await wait_stored(feed, 2)
        assert await states(store) == {2: "DEPEND"}
        # The same ID and text in the next instance: the job is found there too.
        for item in (JournalBegin("third"), END, job(2)):
            feed.push(item)
        assert not feed.caught_up, "as soon as a new history begins"
        while not feed.caught_up:
            await asyncio.sleep(0)
        await wait_stored(feed, 2)
        assert await store.counts.jobs("true") == 1
    (aside,) = tmp_path.glob("s.*.first.sqlite")
    with closing(sqlite3.connect(aside)) as db:
        assert db.execute("SELECT id FROM jobs").fetchall() == [(1,)]


async def test_reads_go_on_while_instances_change(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for round_ in range(5):
            for item in (JournalBegin(f"instance {round_}"), END, job(round_ + 1)):
                feed.push(item)
            waiting = asyncio.create_task(wait_stored(feed, round_ + 1))
            while not waiting.done():
                assert await store.counts.jobs() <= 1
                await asyncio.sleep(0)
            await waiting
    assert len(list(tmp_path.glob("s.*.sqlite"))) == 4


async def test_a_full_disk_delays_events_and_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite's limit of pages stands for a disk that is full, and later is not."""

    async def pragma(statement: str) -> int:
        return await store.connections.write(lambda db: db.execute(f"PRAGMA {statement}").fetchone()[0])

    monkeypatch.setattr("sidecar.journal.retry._INTERVAL", 0.01)
    async with running(tmp_path / "s.sqlite") as (feed, store):
        feed.push(JournalBegin("i"))
        feed.push(END)
        feed.push(job(1))
        await wait_stored(feed, 1)
        await pragma(f"max_page_count = {await pragma('page_count')}")
        for number in range(2, 2000):
            feed.push(job(number, "finish", "clean"))
        while not feed.problem:
            await asyncio.sleep(0)
        assert "full" in feed.problem
        await pragma("max_page_count = 1000000")
        await wait_stored(feed, 1999)
        assert len(await states(store)) == 1999
        assert not feed.problem


async def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a database, and long enough to be recognized as something else" * 20)
    for path in (tmp_path / "text", tmp_path / "missing" / "s.sqlite", tmp_path):
        with pytest.raises(StoreError, match="cannot be opened"):
            await Store(path).open()
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(StoreError, match="version 99"):
        await Store(tmp_path / "newer").open()


async def test_waiters_are_removed(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, _):
        feed.push(JournalBegin("i"))
        feed.push(END)
        with feed.waiters.next_change(1):
            assert len(feed.waiters) == 1
        assert len(feed.waiters) == 0
        with feed.waiters.next_change(1) as change:
            feed.push(job(1))
            await asyncio.wait_for(change, 60)
        assert len(feed.waiters) == 0


async def test_a_job_that_is_not_in_memory_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.journal.projection._MAX_RECORDS", 1)
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for item in (JournalBegin("i"), END, job(1), job(2), job(3)):
            feed.push(item)
        await wait_stored(feed, 3)
        assert feed.active_count == 3
        exception = JobEvents(1, [Event(5.0, "exception", {"type": "oops", "severity": 0, "note": "n"})])
        for item in (exception, live(2, "finish"), live(1, "clean"), live(2, "clean"), live(3, "clean")):
            feed.push(item)
        await asyncio.wait_for(feed.wait_idle(), 60)
        assert feed.active_count == 0
        raw = await store.job(1)
        assert raw is not None
        ended = msgspec.json.decode(raw)
        assert (ended["result"], ended["exception"]["type"]) == ("FAILED", "oops")
        assert [entry.name for entry in await entries(store, 1)] == ["submit", "validate", "exception", "clean"]
        assert await store.jobspec(1) is not None


async def test_positions_continue_in_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    for names in ((), ("finish",), ("finish", "clean")):
        async with running(path) as (feed, store):
            for item in (JournalBegin("i"), job(1, *names), END):
                feed.push(item)
            await feed.close()
            entries = [pair for each in await store.events_between(0, 100, 100) for pair in each.entries(0)]
            assert [position for position, _ in entries] == list(range(1, len(names) + 3))
            assert [entry.name for _, entry in entries] == ["submit", "validate", *names]


async def test_events_written_during_a_read_are_not_repeated(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    tail, seen, after = Tail(store), [], 0
    for number in range(1, 200):
        event = LoggedEvents(number, 1, 1, b"[]", "", 0, "", "", "", "", 0.0)
        _, (logged, after) = await asyncio.gather(store.write([], [event]), tail.read(after))
        seen += [each.position for each in logged]
    seen += [each.position for each in (await tail.read(after))[0]]
    assert seen == list(range(1, 200))
    await store.close()


class Recorded(EventStream):
    """A stream that records the names of its events."""

    def __init__(self) -> None:
        super().__init__(StreamLimits(60.0, 60.0, Instruments().count_dropped_stream, LoopClock()))
        self.names: list[str] = []

    async def push(self, data: bytes) -> None:
        lines = (line.removeprefix(b"data: ") for line in data.splitlines() if line.startswith(b"data: "))
        self.names += [msgspec.json.decode(line).get("name", "end") for line in lines]


async def test_a_stream_that_reads_between_commit_and_publication_misses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file may be ahead of the published position: subscribers have yet to get the last events of a job."""
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for item in (JournalBegin("i"), job(1), END):
            feed.push(item)
        await wait_stored(feed, 1)
        started, committed, released = threading.Event(), threading.Event(), threading.Event()
        write_batch = inserts.write_batch

        def watched(*arguments: Any) -> None:
            started.set()
            write_batch(*arguments)
            committed.set()
            released.wait(60)

        monkeypatch.setattr(writer, "write_batch", watched)
        feed.push(live(1, "finish"))
        feed.push(live(1, "clean"))
        while not started.is_set():
            await asyncio.sleep(0)
        assert committed.wait(60)
        stream, position = Recorded(), store.position
        limits = StreamLimits(60.0, 60.0, Instruments().count_dropped_stream, LoopClock())
        events = Events(store, feed, JobLookup(store, feed), limits)
        following = asyncio.create_task(events._follow_job(stream, 1, 0))
        await asyncio.sleep(0)
        assert store.position == position
        assert (await store.state_and_position(1))[0] == "INACTIVE"
        released.set()
        await asyncio.wait_for(following, 60)
        assert stream.names == ["submit", "validate", "finish", "clean", "end"]
