"""Output eventlogs in chunks: every position and every tail gives the same lines, within the memory limit."""

from __future__ import annotations

import asyncio
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.domain import fluid
from sidecar.domain.errors import InvalidRequest, Problem
from sidecar.domain.output import Stream
from sidecar.domain.partial import Part
from sidecar.instance.embedded import output as embedded_output
from sidecar.instance.embedded.instance import EmbeddedInstance
from sidecar.services import output_log, output_segments, output_tail
from sidecar.services.output_log import Cursor, OutputLog, OutputLogs, resume
from sidecar.services.output_tail import tail
from tests.unit.domain.test_output import Written, entry, lines_of
from tests.unit.services.test_live_output import Blobs

JOB = 17


class Log:
    """A log of the embedded engine in chunks of some hundred bytes."""

    def __init__(self, directory: Path, log: bytes) -> None:
        self.instance = EmbeddedInstance(directory, cores=1, kill_timeout=1)
        self.path = directory / "output" / f"{fluid.f58(JOB)}.output"
        self.path.parent.mkdir()
        self.path.write_bytes(log)
        self.logs = OutputLogs(self.instance)

    def again(self) -> Log:
        """Return the same log for another server, whose caches are empty."""
        other = Log.__new__(Log)
        other.instance, other.path, other.logs = self.instance, self.path, OutputLogs(self.instance)
        return other

    def add(self, log: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(log)

    async def open(self) -> OutputLog:
        output = self.logs.open(JOB)
        await output.refresh()
        return output


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_output, "_CHUNK", 500)
    monkeypatch.setattr(embedded_output, "_READ", 64)


def writes(number: int, *, ranks: int = 3, seed: int = 1) -> list[Written]:
    """Return the writes of several tasks: mostly lines, some of them in parts, and the last without a newline."""
    chance = random.Random(seed)
    written = []
    for index in range(number):
        parts = chance.choice([[b"%d\n"], [b"%d\n"], [b"%d-", b"x" * chance.randrange(80), b"\n"]])
        stream, rank = chance.choice(["stdout", "stderr"]), str(chance.randrange(ranks))
        written += [(stream, rank, part % index if b"%" in part else part) for part in parts]
    return [*written, ("stdout", "0", b"the end")]


async def read(cursor: Cursor, end: int, *, rest: bool = True) -> list[tuple[str, Written]]:
    """Return the lines from a position on, with their event IDs."""
    found: list[tuple[str, Written]] = []
    while True:
        first, runs = await cursor.read(end, rest=rest)
        if not runs:
            return found
        found += [(cursor.event_id(number), line) for number, line in enumerate(lines_of(runs), first + 1)]


@pytest.mark.parametrize("number", [0, 1, 10, 300])
async def test_read_from_each_position(tmp_path: Path, number: int) -> None:
    log = Log(tmp_path, b"".join(entry(*each) for each in writes(number)))
    output = await log.open()
    every = await read(Cursor(output), output.count)
    assert [name for name, _ in every] == [str(number) for number in range(1, len(every) + 1)]
    for position in range(0, len(every) + 1, 1 + number // 20):
        other = await log.again().open()  # as after a restart
        cursor = await resume(other, str(position), "after", other.count, rest=True)
        assert await read(cursor, other.count) == every[position:]
        assert (
            await read(await resume(output, str(position), "after", output.count, rest=True), output.count)
            == (every[position:])
        )


@pytest.mark.parametrize("stream", ["both", "stdout", "stderr"])
async def test_a_tail_is_the_end_of_the_output(tmp_path: Path, stream: Stream) -> None:
    log = Log(tmp_path, b"".join(entry(*each) for each in writes(600)))
    output = await log.open()
    every = [line for _, line in await read(Cursor(output), output.count)]
    wanted = [line for line in every if stream in ("both", line[0])]
    for lines in (0, 1, 2, 5, 30, 100, len(wanted) - 1, len(wanted), len(wanted) + 1, 10**9):
        cursor, _ = await tail(output, lines, stream, output.count, rest=True)
        found = await read(cursor, output.count)
        assert [line for _, line in found if stream in ("both", line[0])] == wanted[
            len(wanted) - min(lines, len(wanted)) :
        ]
        for index in range(0, len(found), 1 + len(found) // 5):  # and resumes after each of its lines
            other = await log.again().open()
            again = await resume(other, found[index][0], "after", other.count, rest=True)
            assert await read(again, other.count) == found[index + 1 :]


async def test_a_tail_reads_only_the_end(tmp_path: Path) -> None:
    log = Log(tmp_path, b"".join(entry("stdout", "0", b"%d\n" % number) for number in range(2000)))
    indexes = []
    real = log.instance.read_output

    async def count(jobid: int, chunks: Any, index: int) -> bytes:
        indexes.append(index)
        return await real(jobid, chunks, index)

    log.instance.read_output = count  # type: ignore[method-assign]
    output = await log.open()
    cursor, _ = await tail(output, 3, "both", output.count, rest=True)
    assert [line[2] for _, line in await read(cursor, output.count)] == [b"1997\n", b"1998\n", b"1999\n"]
    assert output.count > 300
    assert min(indexes) >= output.count - 4


async def test_growing_log(tmp_path: Path) -> None:
    """Also when half an entry is written: known chunks do not change, for the tails of every server."""
    written = writes(200, seed=3)
    whole = b"".join(entry(*each) for each in written)
    log, chance = Log(tmp_path, b""), random.Random(5)
    output = await log.open()
    cursor, seen, begin = Cursor(output), [], 0
    names = []
    while begin < len(whole):
        end = begin + chance.randrange(1, 700)
        log.add(whole[begin:end])
        begin = end
        await output.refresh()
        seen += await read(cursor, output.count, rest=False)
        names.append((await tail(output, 2, "both", output.count, rest=False))[0].position)
    seen += await read(cursor, output.count)
    other = await log.again().open()
    assert seen == await read(Cursor(other), other.count)
    for name in names:
        rest = await read(await resume(other, name, "after", other.count, rest=True), other.count)
        assert [line for _, line in rest] == [line for _, line in seen][len(seen) - len(rest) :]


@pytest.mark.parametrize(
    "text", ["x", "-1", "1-", "-", "7-3", "99999999", "٣", "1" * 30, "0-3-4", "500-99999999", "1.5"]
)
async def test_unknown_event_id(tmp_path: Path, text: str) -> None:
    log = Log(tmp_path, b"".join(entry("stdout", "0", b"%d\n" % number) for number in range(100)))
    output = await log.open()
    with pytest.raises(InvalidRequest, match="after: "):
        await resume(output, text, "after", output.count, rest=True)


async def test_log_that_becomes_unreadable(tmp_path: Path) -> None:
    log = Log(tmp_path, b"".join(entry("stdout", "0", b"x" * 2000 + b"\n") for number in range(100)))
    output = await log.open()
    cursor = Cursor(output)
    assert (await cursor.read(output.count))[1]
    log.path.unlink()
    with pytest.raises(Problem, match="cannot be read"):
        await read(cursor, output.count)


async def test_the_caches_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_segments, "_CACHE_SIZE", 20_000)
    monkeypatch.setattr(output_log, "_RENDERED", 5_000)
    log = Log(tmp_path, b"".join(entry("stdout", "0", b"%0100d\n" % number) for number in range(2000)))
    output = await log.open()
    cursors = [Cursor(output) for _ in range(5)]
    await cursors[0].seek(1000, output.count)
    for every in await asyncio.gather(*(read(cursor, output.count) for cursor in cursors)):
        assert every[-1][1] == ("stdout", "0", b"%0100d\n" % 1999)
    assert log.logs.cached <= 20_000
    for number in range(100):
        log.logs.remember((number,), b"x" * 1000)
        assert log.logs.cached <= 25_000
    assert log.logs.rendered((99,)) == b"x" * 1000


class Memory:
    """An instance with one log in given chunks; it records the requests."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = Blobs(chunks)
        self.requested: list[int] = []
        self.in_flight = self.max_in_flight = 0

    async def output_chunks(self, _: int, __: Any) -> Blobs:
        return self.chunks

    async def read_output(self, _: int, chunks: Blobs, number: int) -> bytes:
        self.requested.append(number)
        self.in_flight += len(chunks[number])
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        await asyncio.sleep(0)
        self.in_flight -= len(chunks[number])
        return chunks[number]

    async def open(self) -> OutputLog:
        instance: Any = self
        output = OutputLogs(instance).open(JOB)
        await output.refresh()
        return output


def _one_long_entry() -> tuple[list[bytes], int]:
    whole = entry("stdout", "0", b"x" * 3_000_000)
    return [whole[begin : begin + 30_000] for begin in range(0, len(whole), 30_000)], 3_000_000


#: Logs with many incomplete lines or entries, by name: the chunks, and the bytes of output in them.
INCOMPLETE: dict[str, Callable[[], tuple[list[bytes], int]]] = {
    "lines": lambda: (
        [b"".join(entry("stdout", str(rank), b"x" * 300_000) for rank in range(4))]
        + [entry("stdout", str(number % 4), b".") for number in range(400)],
        4 * 300_000 + 400,
    ),
    "an entry": lambda: ([b"x" * 100_000 for _ in range(200)] + [b"\n" + entry("stdout", "0", b"behind\n")], 7),
    "an entry that ends": _one_long_entry,
    "a line for each task": lambda: (
        [b"".join(entry("stdout", str(rank), b"x" * 40) for rank in range(1000))]
        + [entry("stdout", str(number), b".") for number in range(200)],
        1000 * 40 + 200,
    ),
}


@pytest.mark.parametrize("name", INCOMPLETE)
async def test_incomplete_lines_are_stored_once(name: str) -> None:
    """Not once for each chunk in which they are incomplete: that is a gigabyte for some megabytes of output."""
    chunks, size = INCOMPLETE[name]()
    output = await Memory(*chunks).open()
    tracemalloc.start()
    try:
        for cursor in (Cursor(output), Cursor(output)):
            found = 0
            while writes := (await cursor.read(output.count, rest=True))[1]:
                found += sum(len(run.data) for run in writes)
            assert found == size
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert output.logs.cached <= 6 * 1024 * 1024
    assert most < 24 * 1024 * 1024


async def test_incomplete_lines_count_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """However segments share them, and in any order of eviction."""
    monkeypatch.setattr(output_segments, "_CACHE_SIZE", 200_000)
    chance = random.Random(7)
    chunks = [
        entry("stdout", str(chance.randrange(3)), b"x" * chance.randrange(5000) + chance.choice([b"", b"", b"\n"]))
        for _ in range(600)
    ]
    output = await Memory(*chunks).open()
    cursors = [Cursor(output, origin) for origin in (0, 0, 5, 300)]
    for _ in range(400):
        await chance.choice(cursors).read(output.count)
    await read(cursors[0], output.count)
    cache = output.logs.segments
    assert cache.size <= 200_000
    parts = {id(part): part for segment in cache for tip in _tips(segment) for part in tip.chain()}
    assert cache.size == sum(segment.size for segment in cache) + sum(part.cost for part in parts.values())
    assert len(parts) > 3


def _tips(segment: output_segments.Segment) -> list[Part]:
    return segment.after.parts if segment.after else []


async def test_large_chunks_are_read_one_at_a_time() -> None:
    """The size of a chunk is unknown before it is read: after a small one, do not read many large ones at once."""
    large = entry("stdout", "0", (b"x" * 999 + b"\n") * 500)
    small = [entry("stdout", "0", b"%d\n" % number) for number in range(100)]
    log = Memory(small[0], *[large] * 30)
    output = await log.open()
    cursors = [Cursor(output) for _ in range(10)]
    await asyncio.gather(*(read(cursor, output.count) for cursor in cursors))
    assert log.max_in_flight < 2.1 * len(large)
    log = Memory(*small)
    await read(Cursor(await log.open()), len(small))
    assert log.requested == list(range(100))
    assert log.max_in_flight > 4 * len(small[0])


@pytest.mark.parametrize("rest", [True, False])
async def test_a_tail_of_a_stream_that_writes_little(monkeypatch: pytest.MonkeyPatch, rest: bool) -> None:
    """The chunks between the lines are read once to find them, and once to send them."""
    monkeypatch.setattr(output_segments, "_CACHE_SIZE", 1)
    chunks = [b"".join(entry("stdout", "0", b"%d %d\n" % (n, each)) for each in range(50)) for n in range(200)]
    for number in (3, 60, 61, 180):
        chunks[number] += entry("stderr", "0", b"err%d\n" % number)
    log = Memory(*chunks)
    output = await log.open()
    for lines, first in ((1, 180), (2, 61), (3, 60), (4, 3)):
        log.requested.clear()
        cursor, enough = await tail(output, lines, "stderr", output.count, rest=rest)
        assert enough
        assert len(log.requested) < 200 - first + 100
        found = await read(cursor, output.count, rest=rest)
        assert [line[2] for _, line in found if line[0] == "stderr"] == [
            b"err%d\n" % number for number in (3, 60, 61, 180)[-lines:]
        ]
    log.requested.clear()
    cursor, enough = await tail(output, 10, "stderr", output.count, rest=rest)
    assert enough
    assert len(log.requested) < 250
    assert sum(line[0] == "stderr" for _, line in await read(cursor, output.count, rest=rest)) == 4


async def test_the_search_for_a_tail_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only output of other streams counts: a tail of all streams is never limited."""
    monkeypatch.setattr(output_tail, "IN_VAIN", 50 * 16 * 1024)
    chunks = [entry("stdout", "0", b"%d\n" % number) for number in range(200)]
    for number in (3, 170):
        chunks[number] += entry("stderr", "0", b"err%d\n" % number)
    output = await Memory(*chunks).open()
    cursor, enough = await tail(output, 2, "stderr", output.count, rest=True)
    assert not enough
    assert [line for _, line in await read(cursor, output.count) if line[0] == "stderr"] == [
        ("stderr", "0", b"err170\n")
    ]
    cursor, enough = await tail(output, 1, "stderr", output.count, rest=True)
    assert enough
    cursor, enough = await tail(output, 150, "stdout", output.count, rest=True)
    assert enough
    assert (await read(cursor, output.count))[0][1] == ("stdout", "0", b"50\n")


async def test_readers_at_the_same_position_share(tmp_path: Path) -> None:
    log = Log(tmp_path, b"".join(entry("stdout", "0", b"%d\n" % number) for number in range(1000)))
    loads = 0
    real = log.instance.read_output

    async def count(jobid: int, chunks: Any, index: int) -> bytes:
        nonlocal loads
        loads += 1
        return await real(jobid, chunks, index)

    log.instance.read_output = count  # type: ignore[method-assign]
    output = await log.open()
    assert log.logs.open(JOB) is output
    first, *others = await asyncio.gather(*(read(Cursor(output), output.count) for _ in range(10)))
    assert all(each == first for each in others)
    assert len(first) == 1000
    assert loads == output.count
