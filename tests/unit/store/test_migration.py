"""Conversion of a store of version 4: the same jobs and events, after any interruption."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecar.store import Filter, Search, Store, StoreError
from sidecar.store.migration import Migration
from tests.support import typical, version4
from tests.support.stored import entries

_JOBS = 600


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("version4") / "s.sqlite"
    batches = [*typical.history(0, _JOBS // 2), *typical.live(_JOBS // 2, _JOBS // 2, 10 * (_JOBS // 2))]
    batches[0][0][0] = batches[0][0][0]._replace(key=("key", "digest"))
    version4.write(path, batches)
    return path


@pytest.fixture
def path(template: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "s.sqlite"
    copy.write_bytes(template.read_bytes())
    return copy


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = Store(path)
    await store.open()
    await store.migrated()
    yield store
    await store.close()


async def contents(store: Store) -> list[Any]:
    """Return all that the API returns of a store."""
    pages = [(await store.lists.page(Filter(), None, shape, "\n")).json for shape in ("brief", "full")]
    found = [
        b",".join([chunk async for chunk in store.lists.search(Search(text=text))])
        for text in ("project-07", "boranis", "no", "simulate --seed")
    ]
    jobids = [int(line[6 : line.index(b",")]) for line in pages[0].split(b"\n")]
    logs = [[entry.name for entry in await entries(store, jobid)] for jobid in jobids]
    specs = [await store.jobspec(jobid) for jobid in jobids]
    events: list[tuple[int, int, str]] = []
    while rows := await store.events_between(events[-1][0] if events else 0, 10**9, 1000):
        events += [(number, each.jobid, entry.name) for each in rows for number, entry in each.entries(0)]
    return [pages, found, logs, specs, events, store.id, store.position, await store.job_of_key("key"), await store.counts.totals(), await store.instance(), await store.counts.by_group()]  # fmt: skip


@pytest.fixture(scope="module")
def expected(template: Path) -> list[Any]:
    """Read the old file without the code of the conversion."""
    with closing(sqlite3.connect(template)) as db:
        full = [json.encode() for (json,) in db.execute("SELECT json FROM documents ORDER BY job DESC")]
        brief = [json.encode() for (json,) in db.execute("SELECT brief FROM jobs ORDER BY id DESC")]
        specs = [json for (json,) in db.execute("SELECT json FROM jobspecs ORDER BY job DESC")]
        found = [
            b",".join(
                json.encode()
                for (json,) in db.execute(
                    "SELECT json FROM documents JOIN jobs_text ON jobs_text.rowid = job WHERE text LIKE ? ORDER BY job DESC",
                    (f"%{text}%",),
                )
            )
            for text in ("project-07", "boranis", "no", "simulate --seed")
        ]
    return [[b"\n".join(brief), b"\n".join(full)], found, specs]


async def test_everything_is_kept(path: Path, expected: list[Any]) -> None:
    before = path.stat().st_size
    async with opened(path) as store:
        pages, found, logs, specs, events, name, position, key, totals, instance, groups = await contents(store)
        assert [pages, found, specs] == expected
        assert [len(each) for each in logs] == [10] * _JOBS
        assert logs[0][0] == "submit"
        assert [number for number, _, _ in events] == list(range(1, 10 * _JOBS + 1))
        assert (name, position, instance) == ("0123abcd", 10 * _JOBS, "i")
        assert key == (typical.job(0).id, "digest")
        assert totals == [("flux_sidecar_events_total", "[]", "[7.0]")]
        assert groups == [("", "INACTIVE", 0, 0, 0, _JOBS)]
        assert await store.begin_instance("i") is None
    assert path.stat().st_size < 0.6 * before
    assert {each.name for each in path.parent.iterdir()} == {"s.sqlite", "s.sqlite.lock"}
    async with opened(path) as store:
        assert (await contents(store))[0] == pages


def stopping_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Have a conversion stop after some transactions."""
    advance = Migration._advance
    done: Iterator[int] = iter(range(batches))

    def limited(self: Migration, jobs: int) -> None:
        if next(done, None) is None:
            self.stop()
        advance(self, jobs)

    monkeypatch.setattr(Migration, "_advance", limited)


@pytest.mark.parametrize("batches", [0, 1, 3, 5])
async def test_a_stop_loses_nothing(
    path: Path, expected: list[Any], batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stopping_after(patch, batches)
        async with opened(path) as store:
            with pytest.raises(StoreError, match=r"is being converted for this version of the server: \d+ %"):
                await store.state(1)
            with pytest.raises(StoreError, match="is being converted"):
                await store.probe()
    assert path.with_name("s.sqlite.new").exists()
    async with opened(path) as store:
        pages, found, _, specs, *_ = await contents(store)
        assert [pages, found, specs] == expected


async def test_it_continues_where_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the old file has changed since: then it starts again."""
    with monkeypatch.context() as patch:
        stopping_after(patch, 1)
        async with opened(path):
            pass
    new = path.with_name("s.sqlite.new")
    with closing(sqlite3.connect(new)) as db, db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (512,)
        db.execute("UPDATE jobs SET name = 'marked' WHERE id = ?", (typical.job(0).id,))
    with monkeypatch.context() as patch:
        stopping_after(patch, 0)
        async with opened(path):
            pass
    with closing(sqlite3.connect(new)) as db:
        assert db.execute("SELECT count(*) FROM jobs WHERE name = 'marked'").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (_JOBS,)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE meta SET value = 'other' WHERE key = 'instance'")
    async with opened(path) as store:
        assert await store.instance() == "other"
        assert b"marked" not in (await store.lists.page(Filter(), None)).json


async def test_a_kill_loses_nothing(path: Path, expected: list[Any]) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from sidecar.store.migration import Migration\n"
        "Migration._advance = lambda self, jobs: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Migration(Path(sys.argv[1])).run()"
    )
    killed = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -9
    async with opened(path) as store:
        pages, found, _, specs, *_ = await contents(store)
        assert [pages, found, specs] == expected


async def test_a_full_disk_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("sidecar.store.migration._NEEDED", 1e9)
        with pytest.raises(StoreError, match=r"it needs about \d+ MiB, and \d+ are free.*unchanged.*--store"):
            await Store(path).open()
    copy = Migration._copy

    def limited(self: Migration, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        new.execute("PRAGMA max_page_count = 100")  # the same error as that of a full disk
        copy(self, old, new)

    with monkeypatch.context() as patch:
        patch.setattr(Migration, "_copy", limited)
        store = Store(path)
        await store.open()
        with pytest.raises(StoreError, match=r"cannot be converted: the disk is full.*unchanged.*--store"):
            await store.migrated()
        await store.close()
    assert path.read_bytes() == before
    assert not path.with_name("s.sqlite.new").exists()
    async with opened(path) as store:
        assert await store.counts.jobs() == _JOBS


async def test_an_error_at_the_end_is_not_taken_for_another_program(
    path: Path, expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy is complete in the write-ahead log, and cannot be moved into the file. A limit stands for the disk."""
    copy, limits = Migration._copy, resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self: Migration, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        copy(self, old, new)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))

    with monkeypatch.context() as patch:
        patch.setattr(Migration, "_copy", limited)
        try:
            with pytest.raises(sqlite3.OperationalError, match="disk I/O error"):
                Migration(path).run()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    async with opened(path) as store:
        pages, found, _, specs, *_ = await contents(store)
        assert [pages, found, specs] == expected


async def test_a_file_that_is_open_elsewhere_is_not_replaced(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM jobs").fetchone()
        store = Store(path)
        await store.open()
        with pytest.raises(StoreError, match="another program has"):
            await store.migrated()
        await store.close()
    async with opened(path) as store:
        assert await store.counts.jobs() == _JOBS


async def test_damaged_cells_stay_damaged_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        jobids = [jobid for (jobid,) in db.execute("SELECT id FROM jobs ORDER BY id DESC LIMIT 3")]
        db.execute("UPDATE documents SET json = CAST(x'7bff' AS TEXT) WHERE job = ?", jobids[:1])
        db.execute("UPDATE events SET json = x'5b7b' WHERE job = ?", jobids[1:2])
        db.execute("UPDATE jobspecs SET json = x'7b' WHERE job = ?", jobids[2:])
    async with opened(path) as store:
        first = msgspec.json.decode(await store.job(jobids[0]) or b"")
        assert (first["state"], first["cwd"]) == ("INACTIVE", "")
        assert await entries(store, jobids[1]) == []
        assert await store.jobspec(jobids[2]) == b"{}"
        assert len(await entries(store, jobids[2])) == 10


async def test_two_servers(path: Path) -> None:
    async with opened(path):
        with pytest.raises(StoreError, match="in use by"):
            await Store(path).open()
