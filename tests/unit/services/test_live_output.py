"""Live output: a failed watch is retried or ends with its cause, and no reader waits for ever."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from sidecar.domain.closed import Closed
from sidecar.domain.errors import Problem, Unavailable
from sidecar.domain.model import JournalBegin
from sidecar.domain.output import Run
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervisor
from sidecar.services.live_output import LiveOutput, LiveOutputs
from sidecar.services.output_log import Cursor, OutputLogs
from tests.support.journal import END, job, live, running, wait_stored
from tests.unit.domain.test_output import entry


class Blobs(list[bytes]):
    """The chunks of a log."""

    def chunk_id(self, index: int) -> int:
        return index

    def find(self, chunk_id: int) -> int | None:
        return chunk_id

    def cache_key(self, index: int) -> tuple[int, int]:
        return index, index

    def last_stable(self, index: int) -> int:
        return index


class Instance:
    """The output of one job, with failures on request."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.changed = asyncio.Condition()
        self.version = 0
        self.fault: Exception | None = None
        self.waits = 0

    async def output_chunks(self, _: int, __: Any) -> Blobs:
        return Blobs(self.chunks)

    async def read_output(self, _: int, chunks: Blobs, number: int) -> bytes:
        return chunks[number]

    async def wait_for_output(self, _: int, version: int) -> int | None:
        self.waits += 1
        async with self.changed:
            await self.changed.wait_for(lambda: self.version > version or self.fault)
        if self.fault:
            fault, self.fault = self.fault, None
            raise fault
        return self.version

    async def write(self, *chunks: bytes, fault: Exception | None = None) -> None:
        async with self.changed:
            self.chunks += chunks
            self.version += 1
            self.fault = fault
            self.changed.notify_all()


class Following:
    """The live output of job 1, which is running, and a reader."""

    def __init__(self, instance: Instance, live: LiveOutput, push: Callable[[Any], None]) -> None:
        self.instance, self.live, self.push = instance, live, push
        self.cursor = Cursor(live.output)

    async def read(self) -> list[Run]:
        """Return the new lines up to the current end."""
        found = []
        while some := (await self.cursor.read(self.live.count, rest=self.live.ended))[1]:
            found += some
        return found


@asynccontextmanager
async def followed(path: Path) -> AsyncIterator[tuple[Any, LiveOutputs, Feed]]:
    """Yield an instance with one running job, the live outputs, and the feed."""
    async with running(path / "s.sqlite") as (feed, store), asyncio.timeout(20):
        for item in (JournalBegin("i"), job(1, "alloc"), END):
            feed.push(item)
        await wait_stored(feed, 1)
        instance: Any = Instance()
        yield instance, LiveOutputs(OutputLogs(instance), feed, store, Supervisor()), feed


@asynccontextmanager
async def following(path: Path) -> AsyncIterator[Following]:
    async with followed(path) as (instance, outputs, feed):
        live = outputs.join(1)
        yield Following(instance, live, feed.push)
        outputs.leave(1)


async def test_output_is_read_as_it_is_written(tmp_path: Path) -> None:
    async with following(tmp_path) as each:
        for number in range(3):
            await each.instance.write(entry("stdout", "0", b"%d\n" % number))
            await each.live.wait(number)
            assert [run.data for run in await each.read()] == [b"%d\n" % number]
        await each.instance.write(entry("stdout", "0", b"last"))
        for name in ("finish", "clean"):
            each.push(live(1, name))
        while not each.live.ended:
            await each.live.wait(each.live.count)
        assert [run.data for run in await each.read()] == [b"last"]
        await each.live.wait(10**9)  # returns at once


async def test_lost_connection_repeats_no_line(tmp_path: Path) -> None:
    async with following(tmp_path) as each:
        await each.instance.write(entry("stdout", "0", b"0\n"))
        await each.live.wait(0)
        await each.instance.write(entry("stdout", "0", b"1\n"), fault=Unavailable("the connection is lost"))
        await each.live.wait(1)
        await each.instance.write(entry("stdout", "0", b"2\n"))
        await each.live.wait(2)
        assert b"".join(run.data for run in await each.read()) == b"0\n1\n2\n"


async def test_temporary_failure_of_the_store(tmp_path: Path) -> None:
    """Readers wait and miss no line."""
    async with following(tmp_path) as each:
        await each.instance.write(entry("stdout", "0", b"0\n"))
        await each.live.wait(0)
        with closing(sqlite3.connect(tmp_path / "s.sqlite")) as other, structlog.testing.capture_logs() as logs:
            other.execute("ALTER TABLE jobs RENAME TO elsewhere")
            await each.instance.write(entry("stdout", "0", b"1\n"))
            while not any("cannot be followed" in line["event"] for line in logs):
                await asyncio.sleep(0)
            other.execute("ALTER TABLE elsewhere RENAME TO jobs")
        await each.live.wait(1)
        assert b"".join(run.data for run in await each.read()) == b"0\n1\n"


@pytest.mark.parametrize("fault", [KeyError("rank"), Problem("it is gone"), RecursionError(), MemoryError()])
async def test_another_failure_reaches_the_reader(tmp_path: Path, fault: Exception) -> None:
    """The watch must not end silently while readers wait for ever."""
    async with following(tmp_path) as each:
        await each.instance.write(entry("stdout", "0", b"0\n"))
        await each.live.wait(0)
        waiting = asyncio.create_task(each.live.wait(1))
        await each.instance.write(fault=fault)
        with pytest.raises(Problem, match=fault.detail if isinstance(fault, Problem) else type(fault).__name__):
            await waiting
        assert [run.data for run in await each.read()] == [b"0\n"]


async def test_malformed_entries_are_skipped(tmp_path: Path) -> None:
    async with following(tmp_path) as each:
        for number, text in enumerate((b"[" * 100_000, b"\xff\xfe", b'{"name":"data","context":{"data":[]}}', b"null")):
            await each.instance.write(text + b"\n" + entry("stdout", "0", b"%d\n" % number))
            await each.live.wait(number)
            assert [run.data for run in await each.read()] == [b"%d\n" % number]


async def test_stop_of_the_server_ends_the_wait(tmp_path: Path) -> None:
    async with followed(tmp_path) as (_, outputs, feed):
        waiting = asyncio.create_task(outputs.join(1).wait(0))
        await asyncio.sleep(0)
        feed.end_streams("stopping", "The service is stopping.")
        with pytest.raises(Closed):
            await waiting
        outputs.leave(1)


async def test_each_job_is_watched_once(tmp_path: Path) -> None:
    async with followed(tmp_path) as (instance, outputs, _):
        many = [outputs.join(1) for _ in range(100)]
        assert len(set(many)) == 1
        await instance.write(entry("stdout", "0", b"0\n"))
        await asyncio.gather(*(each.wait(0) for each in many))
        assert instance.waits <= 3
        for _ in many:
            outputs.leave(1)
        assert outputs.join(1) is not many[0]
        outputs.leave(1)
