"""Followed output: a watch that fails goes on or ends with its cause, and a reader is never left waiting."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from sidecar.domain.errors import Closed, Problem, Unavailable
from sidecar.domain.model import HistoryBegin
from sidecar.domain.output import Run
from sidecar.journal.feed import Feed
from sidecar.services.live_output import LiveOutput, LiveOutputs
from sidecar.services.output_log import Cursor, OutputLogs
from tests.support.journal import END, job, live, running, wait_stored
from tests.unit.domain.test_output import entry


class Blobs(list[bytes]):
    """The chunks of a log, which are the log itself here."""

    def chunk_id(self, index: int) -> int:
        return index

    def find(self, chunk_id: int) -> int | None:
        return chunk_id

    def cache_key(self, index: int) -> tuple[int, int]:
        return index, index

    def last_stable(self, index: int) -> int:
        return index


class Instance:
    """Has the output of one job, and fails whenever the test wants."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.changed = asyncio.Condition()
        self.version = 0
        self.fault: Exception | None = None
        self.waits = 0

    async def output_chunks(self, _: int, __: Any) -> Blobs:
        return Blobs(self.pieces)

    async def read_output(self, _: int, pieces: Blobs, number: int) -> bytes:
        return pieces[number]

    async def wait_for_output(self, _: int, version: int) -> int | None:
        self.waits += 1
        async with self.changed:
            await self.changed.wait_for(lambda: self.version > version or self.fault)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        return self.version

    async def write(self, *pieces: bytes, fault: Exception | None = None) -> None:
        async with self.changed:
            self.pieces += pieces
            self.version += 1
            self.fault = fault
            self.changed.notify_all()


class Following:
    """A follower of job 1, which runs, and what a reader of it has got."""

    def __init__(self, instance: Instance, follower: LiveOutput, push: Callable[[Any], None]) -> None:
        self.instance, self.follower, self.push = instance, follower, push
        self.cursor = Cursor(follower.output)

    async def read(self) -> list[Run]:
        """Return everything up to the end that the follower knows now."""
        found = []
        while some := (await self.cursor.read(self.follower.count, rest=self.follower.ended))[1]:
            found += some
        return found


@asynccontextmanager
async def followed(path: Path) -> AsyncIterator[tuple[Any, LiveOutputs, Feed]]:
    """Yield an instance with one running job, what follows its output, and the feed."""
    async with running(path / "s.sqlite") as (feed, store), asyncio.timeout(20):
        for item in (HistoryBegin("i"), job(1, "alloc"), END):
            feed.push(item)
        await wait_stored(feed, 1)
        instance: Any = Instance()
        yield instance, LiveOutputs(OutputLogs(instance), feed, store), feed


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[Following]:
    async with followed(path) as (instance, followers, feed):
        follower = followers.join(1)
        yield Following(instance, follower, feed.push)
        followers.leave(1)


async def test_as_it_comes_and_to_its_end(tmp_path: Path) -> None:
    async with following(tmp_path) as each:
        for number in range(3):
            await each.instance.write(entry("stdout", "0", b"%d\n" % number))
            await each.follower.wait(number)
            assert [run.data for run in await each.read()] == [b"%d\n" % number]
        await each.instance.write(entry("stdout", "0", b"last"))
        for name in ("finish", "clean"):
            each.push(live(1, name))
        while not each.follower.ended:
            await each.follower.wait(each.follower.count)
        assert [run.data for run in await each.read()] == [b"last"]
        await each.follower.wait(10**9)  # there is no more to wait for


async def test_a_lost_connection_doubles_no_line(tmp_path: Path) -> None:
    async with following(tmp_path) as each:
        await each.instance.write(entry("stdout", "0", b"0\n"))
        await each.follower.wait(0)
        await each.instance.write(entry("stdout", "0", b"1\n"), fault=Unavailable("the connection is lost"))
        await each.follower.wait(1)
        await each.instance.write(entry("stdout", "0", b"2\n"))
        await each.follower.wait(2)
        assert b"".join(run.data for run in await each.read()) == b"0\n1\n2\n"


async def test_a_store_that_cannot_be_read_for_a_moment(tmp_path: Path) -> None:
    """It costs that moment: neither the readers nor a line of the output."""
    async with following(tmp_path) as each:
        await each.instance.write(entry("stdout", "0", b"0\n"))
        await each.follower.wait(0)
        with closing(sqlite3.connect(tmp_path / "s.sqlite")) as other, structlog.testing.capture_logs() as logs:
            other.execute("ALTER TABLE jobs RENAME TO elsewhere")
            await each.instance.write(entry("stdout", "0", b"1\n"))
            while not any("cannot be followed" in line["event"] for line in logs):
                await asyncio.sleep(0)
            other.execute("ALTER TABLE elsewhere RENAME TO jobs")
        await each.follower.wait(1)
        assert b"".join(run.data for run in await each.read()) == b"0\n1\n"


@pytest.mark.parametrize("fault", [KeyError("rank"), Problem("it is gone"), RecursionError(), MemoryError()])
async def test_another_failure_reaches_the_reader(tmp_path: Path, fault: Exception) -> None:
    """It is no silent end of a task, behind which every reader waits for ever."""
    async with following(tmp_path) as each:
        await each.instance.write(entry("stdout", "0", b"0\n"))
        await each.follower.wait(0)
        waiting = asyncio.create_task(each.follower.wait(1))
        await each.instance.write(fault=fault)
        with pytest.raises(Problem, match=fault.detail if isinstance(fault, Problem) else type(fault).__name__):
            await waiting
        assert [run.data for run in await each.read()] == [b"0\n"]


async def test_what_is_no_entry_stops_nothing(tmp_path: Path) -> None:
    async with following(tmp_path) as each:
        for number, text in enumerate((b"[" * 100_000, b"\xff\xfe", b'{"name":"data","context":{"data":[]}}', b"null")):
            await each.instance.write(text + b"\n" + entry("stdout", "0", b"%d\n" % number))
            await each.follower.wait(number)
            assert [run.data for run in await each.read()] == [b"%d\n" % number]


async def test_the_server_leaves(tmp_path: Path) -> None:
    async with followed(tmp_path) as (_, followers, feed):
        waiting = asyncio.create_task(followers.join(1).wait(0))
        await asyncio.sleep(0)
        feed.end_streams("stopping", "The service is stopping.")
        with pytest.raises(Closed):
            await waiting
        followers.leave(1)


async def test_each_job_is_watched_once(tmp_path: Path) -> None:
    async with followed(tmp_path) as (instance, followers, _):
        many = [followers.join(1) for _ in range(100)]
        assert len(set(many)) == 1
        await instance.write(entry("stdout", "0", b"0\n"))
        await asyncio.gather(*(each.wait(0) for each in many))
        assert instance.waits <= 3
        for _ in many:
            followers.leave(1)
        assert followers.join(1) is not many[0]
        followers.leave(1)
