"""The store's threads, locks and bounds, where a process of its own would tell no more."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from sidecar.domain.errors import Lagging
from sidecar.domain.model import Event, HistoryBegin, JobEvents
from sidecar.journal.barrier import Barrier
from sidecar.journal.feed import Feed
from sidecar.runtime.threads import Workers
from sidecar.store import Filter, Row, Store, StoreError
from sidecar.telemetry.instruments import Instruments

END = JobEvents(-1, [])


def job(number: int) -> JobEvents:
    events = [Event(float(number), "submit", {"userid": 0, "urgency": 16}), Event(number + 0.05, "validate", {})]
    return JobEvents(number, events, jobspec={"tasks": [{"command": ["true"]}], "resources": [], "attributes": {}})


def row(number: int, text: str) -> Row:
    return Row(
        number, 1.0, None, "SCHED", "", 0, "root", "", "", "name", 1, 1, None, 1,
        f'{{"id":{number}}}', f'{{"id":{number},"command":["{text}"]}}', text, b"{}", None,
    )  # fmt: skip


async def test_a_disk_that_hangs_holds_up_no_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread is in a call that does not return, as on a network file system whose server has gone."""
    monkeypatch.setattr("sidecar.journal.feed._CLOSE_TIMEOUT", 0.2)
    monkeypatch.setattr("sidecar.store.connections._CLOSE_TIMEOUT", 0.2)
    back = threading.Event()
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    feed.push(HistoryBegin("i"))
    feed.push(END)
    await feed.idle()
    hanging = store._writer.run(lambda: back.wait(30))
    feed.push(job(1))
    while store.stuck < 0.01:
        await asyncio.sleep(0)
    begin = time.monotonic()
    await feed.close()
    await store.close()
    assert time.monotonic() - begin < 5
    assert not hanging.done()
    with pytest.raises(StoreError, match="in use by the server"):  # what hangs may still write
        await Store(tmp_path / "s.sqlite").open()
    back.set()
    await hanging


async def test_reads_leave_the_loop_while_a_write_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.connections._SLOW", 0.0)
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    await store.write([row(1, "a")])
    back = threading.Event()
    hanging = store._writer.run(lambda: back.wait(30))
    while not store.stuck:
        await asyncio.sleep(0)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_quick", None)  # to use it would fail
        assert await store.state(1) == "SCHED"
    back.set()
    await hanging
    await store.close()


async def test_the_order_of_calls_is_kept_and_a_cancelled_one_is_left_out() -> None:
    workers = Workers(1, "test")
    done: list[int] = []
    gate = threading.Event()
    first = workers.run(gate.wait)
    calls = [workers.run(lambda number=number: done.append(number)) for number in range(5)]  # type: ignore[misc]
    calls[2].cancel()
    gate.set()
    await first
    await asyncio.gather(*calls, return_exceptions=True)
    assert done == [0, 1, 3, 4]
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    workers.close()


async def test_a_commit_that_is_repeated_changes_nothing(tmp_path: Path) -> None:
    """It may have been carried out although it was said to have failed."""
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    for item in (HistoryBegin("i"), END, job(1), job(2)):
        feed.push(item)
    feed.expect(2)
    await feed.settle_job(2)
    await feed.close()
    told = await store.told(0, store.position, 100)
    await store.write([row(1, "a")], told)
    await store.write([row(1, "a")], told)
    assert [each.position for each in await store.told(0, store.position, 100)] == [each.position for each in told]
    await store.close()


async def test_pages_of_large_jobs_end_early_and_lose_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    await store.write([row(number, "x" * 1_000_000) for number in range(1, 21)])
    page = await store.page(Filter(), 20, "full")
    assert page.number < 20
    assert page.last == 21 - page.number
    pieces = [piece async for piece in store.pieces(Filter(), None, "full", "\n")]
    assert max(map(len, pieces)) < 6_000_000
    assert sum(len(piece.split(b"\n")) for piece in pieces) == 20
    assert sum([len(piece.split(b"\n")) async for piece in store.pieces(Filter(), 7, "full", "\n")]) == 7
    assert await store.last_of(Filter(), 7) == 14
    assert await store.last_of(Filter(), 20) is None
    await store.close()


async def test_a_file_that_is_open_elsewhere_is_not_moved(tmp_path: Path) -> None:
    """Another program has it open: the store waits, and sets it aside when that program has ended."""
    path = tmp_path / "s.sqlite"
    store = Store(path)
    await store.open()
    assert await store.begin_instance("first") is None
    await store.write([row(1, "a")])
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
        with pytest.raises(StoreError, match="another program has it open"):
            await store.begin_instance("se/cond")
        assert await store.state(1) == "SCHED", "reads go on"
    aside = await store.begin_instance("se/cond")
    assert aside
    assert aside.parent == tmp_path
    assert await store.state(1) is None
    # Twice in one second, of the same instance: neither takes the place of the other.
    assert await store.begin_instance("first")
    again = await store.begin_instance("se/cond")
    assert again not in (None, aside)
    await store.close()


async def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    store = Store(path)
    await store.open()
    await store.probe()
    os.rename(path, tmp_path / "moved")
    with pytest.raises(StoreError, match="removed or replaced"):
        await store.probe()
    await store.close()


async def test_what_is_committed_is_stored_whatever_has_become_of_its_path(tmp_path: Path) -> None:
    """Its size cannot be looked up any more: that fails no write, which would be repeated for ever."""
    directory = tmp_path / "d"
    directory.mkdir()
    store = Store(directory / "s.sqlite")
    await store.open()
    directory.rename(tmp_path / "moved")
    directory.touch()
    await store.write([row(1, "a")])
    assert await store.state(1) == "SCHED"
    with pytest.raises(StoreError, match="removed or replaced"):
        await store.probe()
    await store.close()


async def test_a_path_that_cannot_be_looked_at_is_said_by_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends no task; what reads and writes has the file open."""
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    monkeypatch.setattr(store.lock, "_path", tmp_path / ("n" * 300))
    with pytest.raises(StoreError, match="cannot be looked at: File name too long"):
        await store.probe()
    await store.close()


def _ours(path: Path) -> None:
    async def begin() -> None:
        store = Store(path)
        await store.open()
        await store.write([row(1, "a")])
        await store.close()

    asyncio.run(begin())


def _sql(statement: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.executescript(statement)

    return make


def _changed(statement: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _ours(path)
        _sql(f"PRAGMA journal_mode = DELETE; {statement}")(path)
        path.with_name(f"{path.name}.lock").unlink()

    return make


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_sql("CREATE TABLE t (a)"), "another program's database"),
        (_sql("PRAGMA application_id = 7"), "another program's database"),
        (_sql("CREATE TABLE t (a); PRAGMA application_id = 7; PRAGMA user_version = 4"), "another program's database"),
        (_sql("CREATE TABLE t (a); PRAGMA user_version = 4"), "it has no name"),
        (_sql("PRAGMA user_version = 4"), "it has no name"),
        (_changed("PRAGMA user_version = 99"), "of version 99"),
        (_changed("PRAGMA user_version = 0"), "another program's database"),
        (_changed("DELETE FROM meta WHERE key = 'id'"), "it has no name"),
        (_changed("DROP TABLE meta"), "it has no name"),
        (lambda path: path.write_text("no database, and long enough to be seen as none" * 20), "not a database"),
        (lambda path: path.mkdir(), "it is a directory"),
        (os.mkfifo, "it is not a regular file"),
    ],
)
async def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(
    tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "s.sqlite"
    await asyncio.to_thread(make, path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=said) as error:
        await Store(path).open()
    assert "--store" in str(error.value)
    assert list(tmp_path.iterdir()) == [path]
    assert not before or path.read_bytes() == before


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize(("make", "said"), [(Path.mkdir, "is a directory"), (os.mkfifo, "is not a regular file")])
async def test_what_is_no_file_beside_the_store_is_named(
    tmp_path: Path, there: bool, suffix: str, make: Callable[[Path], object], said: str
) -> None:
    path = tmp_path / "s.sqlite"
    if there:
        await asyncio.to_thread(_ours, path)
    beside = tmp_path / f"s.sqlite{suffix}"
    await asyncio.to_thread(beside.unlink, missing_ok=True)
    await asyncio.to_thread(make, beside)
    with pytest.raises(StoreError, match=f"cannot be opened: {beside} {said}. Name another with --store"):
        await asyncio.wait_for(Store(path).open(), 20)


async def test_a_store_of_before_is_taken(tmp_path: Path) -> None:
    """New ones say in their header whose they are."""
    path = tmp_path / "s.sqlite"
    await asyncio.to_thread(_ours, path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (0x666C7363,)
        db.execute("PRAGMA application_id = 0")
    store = Store(path)
    await store.open()
    assert await store.state(1) == "SCHED"
    await store.close()


@pytest.mark.parametrize(
    "holder", ["symbolic link", "dangling link", "file", "beginning of a file", "directory", "pipe", "ours", "cut short", "empty"]
)  # fmt: skip
async def test_the_lock_file_is_ours_or_none(tmp_path: Path, holder: str) -> None:
    """What stands at its path and is another's is neither emptied nor written."""
    path, lock, victim = tmp_path / "s.sqlite", tmp_path / "s.sqlite.lock", tmp_path / "victim"
    victim.write_text("precious")
    texts = {"file": "precious", "beginning of a file": '{"p', "ours": '{"pid": 1, "host": "a', "cut short": '{"pid":', "empty": ""}  # fmt: skip
    if "link" in holder:
        lock.symlink_to(victim if holder == "symbolic link" else tmp_path / "nowhere")
    elif holder == "directory":
        lock.mkdir()
    elif holder == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text(texts[holder])
    store = Store(path)
    if holder in ("ours", "cut short", "empty", "beginning of a file"):
        await store.open()
        await store.close()
        assert lock.read_text().startswith('{"pid": ')
    else:
        with pytest.raises(StoreError, match=r"s\.sqlite\.lock"):
            await store.open()
        assert not path.exists()
        assert holder != "file" or lock.read_text() == "precious"
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


async def test_room_for_others_beside_a_bulk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk waits before single submits do; what is too much for all is refused, and nothing is counted twice."""
    monkeypatch.setattr("sidecar.journal.barrier.BOUND", 0.05)
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    barrier = Barrier(store)
    for number in range(600):
        async with barrier.room(10):
            barrier.expect(number + 1, "bulk", 10)
    easing = asyncio.create_task(barrier.ease())
    async with asyncio.timeout(5):
        await easing  # there is no progress: each line is refused with the reason
    async with barrier.room(10):
        barrier.expect(1000, "other", 10)
    with pytest.raises(Lagging, match="No jobs are accepted"):
        async with barrier.room(64 * 1024 * 1024):
            raise AssertionError("there is no room")
    for number in [*range(1, 601), 1000]:
        barrier._heard(number)
    assert (barrier._bytes, barrier._expected, barrier._expected_of) == (0, {}, {})
    async with barrier.room(64 * 1024 * 1024):  # alone it may be as large as it is
        pass
    await store.close()


async def test_a_command_that_is_not_stored_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is expected, only what a cancel did to one: the lag is at least the time that the reader has waited."""
    monkeypatch.setattr("sidecar.journal.barrier.BOUND", 0.1)
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    barrier = Barrier(store)
    barrier._pushed = 1
    barrier.commanded(1, "alice")
    for wait in (lambda: barrier.settle("alice"), barrier.settle, lambda: barrier.settle_job(1)):
        with pytest.raises(Lagging, match="the effects of accepted commands are not stored yet") as raised:
            await wait()  # type: ignore[misc]
        assert msgspec.to_builtins(raised.value.body())["lag"] >= 0.1
    barrier._advance(1)
    await barrier.settle("alice")
    await store.close()


async def test_each_reader_waits_for_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others have had accepted is waited for a moment; a command that selects jobs waits for all."""
    monkeypatch.setattr("sidecar.journal.barrier.BOUND", 0.1)
    monkeypatch.setattr("sidecar.journal.barrier._OTHERS", 0.02)
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    barrier = Barrier(store)
    barrier.expect(1, "alice")
    await barrier.settle("bob")
    await barrier.settle_job(2)
    waits: list[Callable[[], object]] = [lambda: barrier.settle("alice"), barrier.settle, lambda: barrier.settle_job(1)]
    for wait in waits:
        with pytest.raises(Lagging):
            await wait()  # type: ignore[misc]
    # The store has it, and the journal's word of it was forgotten: it is looked up.
    await store.write([row(1, "a")])
    monkeypatch.setattr("sidecar.journal.barrier.BOUND", 5)
    monkeypatch.setattr("sidecar.journal.barrier._TICK", 0.05)
    await barrier.settle("alice")
    assert not barrier.expects(1)
    await store.close()
