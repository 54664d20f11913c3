"""Threads, locks and limits of the store."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sidecar.domain.model import JournalBegin
from sidecar.journal.feed import Feed
from sidecar.runtime.threads import Workers
from sidecar.store import Filter, LoggedEvents, Row, Store, StoreError
from sidecar.store.schema import connect
from sidecar.telemetry.instruments import Instruments
from tests.support.journal import END, job, running, wait_stored


def row(number: int, text: str) -> Row:
    return Row(
        number, 1.0, None, "SCHED", "", 0, "root", "", "", "name", 1, 1, None, 1,
        f'{{"id":{number},"command":["{text}"]}}', text, b"{}", None,
    )  # fmt: skip


async def test_a_hanging_disk_does_not_delay_the_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call in the writer's thread does not return, as on a network file system without its server."""
    monkeypatch.setattr("sidecar.journal.feed._CLOSE_TIMEOUT", 0.2)
    monkeypatch.setattr("sidecar.store.connections._CLOSE_TIMEOUT", 0.2)
    back = threading.Event()
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()
    feed.push(JournalBegin("i"))
    feed.push(END)
    await feed.wait_idle()
    hanging = asyncio.create_task(store.connections.run_in_writer(lambda: back.wait(30)))
    feed.push(job(1))
    while store.connections.stuck < 0.01:
        await asyncio.sleep(0)
    started = time.monotonic()
    await feed.close()
    await store.close()
    assert time.monotonic() - started < 5
    assert not hanging.done()
    with pytest.raises(StoreError, match="in use by the server"):  # the hanging thread may still write
        await Store(tmp_path / "s.sqlite").open()
    back.set()
    await hanging


async def test_reads_run_in_threads_while_a_write_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.store.connections._SLOW", 0.0)
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    await store.write([row(1, "a")])
    back = threading.Event()
    hanging = asyncio.create_task(store.connections.run_in_writer(lambda: back.wait(30)))
    while not store.connections.stuck:
        await asyncio.sleep(0)
    assert await store.state(1) == "SCHED"
    assert await store.connections.read_inline(lambda _: threading.current_thread()) is not threading.main_thread()
    back.set()
    await hanging
    await store.close()


async def test_calls_run_in_order_without_cancelled_ones() -> None:
    workers = Workers(1, "test")
    done: list[int] = []
    release = threading.Event()
    first = workers.run(release.wait)
    calls = [workers.run(lambda number=number: done.append(number)) for number in range(5)]  # type: ignore[misc]
    calls[2].cancel()
    release.set()
    await first
    await asyncio.gather(*calls, return_exceptions=True)
    assert done == [0, 1, 3, 4]
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 // 0)
    workers.close()


async def test_a_repeated_commit_changes_nothing(tmp_path: Path) -> None:
    """A commit may have been carried out although it was reported as failed."""
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for item in (JournalBegin("i"), END, job(1), job(2)):
            feed.push(item)
        await wait_stored(feed, 2)
        await feed.close()
        logged = await store.events_between(0, store.position, 100)
        await store.write([row(1, "a")], logged)
        await store.write([row(1, "a")], logged)
        again = await store.events_between(0, store.position, 100)
        assert [each.position for each in again] == [each.position for each in logged]


async def test_pages_of_large_jobs_end_early_and_lose_none(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    await store.write([row(number, "x" * 1_000_000) for number in range(1, 21)])
    page = await store.lists.page(Filter(), 20, "full")
    assert page.length < 20
    assert page.last == 21 - page.length
    chunks = [chunk async for chunk in store.lists.chunks(Filter(), None, "full", "\n")]
    assert max(map(len, chunks)) < 6_000_000
    assert sum(len(chunk.split(b"\n")) for chunk in chunks) == 20
    assert sum([len(chunk.split(b"\n")) async for chunk in store.lists.chunks(Filter(), 7, "full", "\n")]) == 7
    assert await store.lists.last_of_page(Filter(), 7) == 14
    assert await store.lists.last_of_page(Filter(), 20) is None
    await store.close()


async def test_a_file_that_is_open_elsewhere_is_not_moved(tmp_path: Path) -> None:
    """While another program has it open, the store is not set aside; later it is."""
    path = tmp_path / "s.sqlite"
    store = Store(path)
    await store.open()
    assert await store.begin_instance("first") is None
    await store.write([row(1, "a")])
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
        with pytest.raises(StoreError, match="another program has it open"):
            await store.begin_instance("se/cond")
        assert await store.state(1) == "SCHED", "reads continue"
    aside = await store.begin_instance("se/cond")
    assert aside
    assert aside.parent == tmp_path
    assert await store.state(1) is None
    # Twice in one second, for the same instance: neither file overwrites the other.
    assert await store.begin_instance("first")
    again = await store.begin_instance("se/cond")
    assert again not in (None, aside)
    await store.close()


async def test_a_new_file_that_cannot_be_created_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full after the old file was set aside: the next attempt must not continue its positions."""
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    await store.begin_instance("first")
    await store.write([row(1, "a")], [LoggedEvents(7, 1, 1, b"[]", "", 0, "", "", "", "", 0.0)])
    old, failures = store.id, [sqlite3.OperationalError("database or disk is full")]

    def fail_once(path: Path) -> sqlite3.Connection:
        if failures:
            raise failures.pop()
        return connect(path)

    monkeypatch.setattr("sidecar.store.connections.connect", fail_once)
    with pytest.raises(StoreError, match="full"):
        await store.begin_instance("second")
    assert await store.begin_instance("second")
    assert (store.id != old, store.position) == (True, 0)
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


async def test_a_commit_succeeds_without_a_path(tmp_path: Path) -> None:
    """The size of the file can no longer be read: that must not fail writes, which would be repeated for ever."""
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


async def test_the_probe_reports_a_path_that_cannot_be_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads and writes have the file open and continue."""

    def fail(path: Path) -> os.stat_result:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    store = Store(tmp_path / "s.sqlite")
    await store.open()
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        with pytest.raises(StoreError, match="cannot be checked: Input/output error"):
            await store.probe()
    await store.close()


def _store(path: Path) -> None:
    async def create() -> None:
        store = Store(path)
        await store.open()
        await store.write([row(1, "a")])
        await store.close()

    asyncio.run(create())


def _sql(statement: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with closing(sqlite3.connect(path)) as db:
            db.executescript(statement)

    return make


def _changed(statement: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _store(path)
        _sql(f"PRAGMA journal_mode = DELETE; {statement}")(path)
        path.with_name(f"{path.name}.lock").unlink()

    return make


@pytest.mark.parametrize(
    ("make", "message"),
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
        (
            lambda path: path.write_text("not a database, and long enough to be recognized as something else" * 20),
            "not a database",
        ),
        (lambda path: path.mkdir(), "it is a directory"),
        (os.mkfifo, "it is not a regular file"),
    ],
)
async def test_another_file_is_refused_and_not_changed(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "s.sqlite"
    await asyncio.to_thread(make, path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(StoreError, match=message) as error:
        await Store(path).open()
    assert "--store" in str(error.value)
    assert list(tmp_path.iterdir()) == [path]
    assert not before or path.read_bytes() == before


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize(("make", "message"), [(Path.mkdir, "is a directory"), (os.mkfifo, "is not a regular file")])
async def test_an_error_names_what_is_not_a_regular_file(
    tmp_path: Path, there: bool, suffix: str, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "s.sqlite"
    if there:
        await asyncio.to_thread(_store, path)
    beside = tmp_path / f"s.sqlite{suffix}"
    await asyncio.to_thread(beside.unlink, missing_ok=True)
    await asyncio.to_thread(make, beside)
    with pytest.raises(StoreError, match=f"cannot be opened: {beside} {message}. Name another with --store"):
        await asyncio.wait_for(Store(path).open(), 20)


async def test_a_store_of_an_older_server_is_accepted(tmp_path: Path) -> None:
    """Newer ones have the application ID of this server in their header."""
    path = tmp_path / "s.sqlite"
    await asyncio.to_thread(_store, path)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA application_id").fetchone() == (0x666C7363,)
        db.execute("PRAGMA application_id = 0")
    store = Store(path)
    await store.open()
    assert await store.state(1) == "SCHED"
    await store.close()


@pytest.mark.parametrize(
    "content", ["symbolic link", "dangling link", "file", "beginning of a file", "directory", "pipe", "lock", "truncated", "empty"]
)  # fmt: skip
async def test_another_file_at_the_lock_path_is_not_changed(tmp_path: Path, content: str) -> None:
    path, lock, victim = tmp_path / "s.sqlite", tmp_path / "s.sqlite.lock", tmp_path / "victim"
    victim.write_text("precious")
    texts = {"file": "precious", "beginning of a file": '{"p', "lock": '{"pid": 1, "host": "a', "truncated": '{"pid":', "empty": ""}  # fmt: skip
    if "link" in content:
        lock.symlink_to(victim if content == "symbolic link" else tmp_path / "nowhere")
    elif content == "directory":
        lock.mkdir()
    elif content == "pipe":
        os.mkfifo(lock)
    else:
        lock.write_text(texts[content])
    store = Store(path)
    if content in ("lock", "truncated", "empty", "beginning of a file"):
        await store.open()
        await store.close()
        assert lock.read_text().startswith('{"pid": ')
    else:
        with pytest.raises(StoreError, match=r"s\.sqlite\.lock"):
            await store.open()
        assert not path.exists()
        assert content != "file" or lock.read_text() == "precious"
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
