"""The process that reads the history: whatever it does, the history is read to its end, once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from sidecar.journal import history
from sidecar.journal.history import History
from sidecar.journal.history_frame import HEADER, LARGEST, Frame, encode
from sidecar.runtime.tasks import Supervisor

_WRITE = "import sys, time; sys.stdout.buffer.write(bytes.fromhex(sys.argv[1])); sys.stdout.flush()"
_STAY = "; time.sleep(600)"


def writes(data: bytes, *, stay: bool = False) -> list[str]:
    """Return the command of a process that writes some bytes, and then ends or stays."""
    return [sys.executable, "-c", _WRITE + (_STAY if stay else ""), data.hex()]


@asynccontextmanager
async def reading(*commands: Sequence[str] | Exception) -> AsyncIterator[tuple[History, asyncio.Event]]:
    """Run a history whose processes are these, one after the other."""
    left = list(commands)

    async def open_() -> tuple[int, Sequence[str]]:
        command = left.pop(0)
        if isinstance(command, Exception):
            raise command
        return 7, command

    available = asyncio.Event()
    read = History(available.set)
    read.open = open_
    async with asyncio.timeout(60):
        await read.restart(Supervisor())
        yield read, available
        await read.stop()


async def take(read: History, available: asyncio.Event) -> Frame:
    while not read:
        available.clear()
        await available.wait()
    frame = read.take()
    read.written()
    return frame


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_FIRST_PAUSE", 0.0)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (writes(b""), "the process that reads it has ended, with 0"),
        (writes(encode(Frame(3))[:-1]), "the process that reads it has ended, with 0"),
        ([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], "the process that reads it has ended, with -9"),
        (writes(HEADER.pack(3) + b"abc"), "the process that reads it has sent no frame"),
        (writes(HEADER.pack(LARGEST + 1), stay=True), "the process that reads it has sent no frame"),
        (writes(encode(Frame(0, failure="the journal ended: no data"))), "the journal ended: no data"),
        (["/nonexistent"], "FileNotFoundError"),
        (OSError("no response"), "OSError: no response"),
    ],
)
async def test_a_process_that_fails_is_replaced(bad: Sequence[str] | Exception, reason: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with reading(bad, writes(encode(Frame(5)) + encode(Frame(6, complete=True)), stay=True)) as (read, event):
            assert [(await take(read, event)).read, (await take(read, event)).complete] == [5, True]
            assert read.progress == (6, 7, "")
    [line] = [line for line in logs if line["log_level"] == "warning"]
    assert line["event"] == "the history is not read; this is retried"
    assert reason in line["reason"]


async def test_the_problem_is_shown_until_another_process_reads() -> None:
    waiting = asyncio.Event()

    async def open_() -> tuple[int, Sequence[str]]:
        if waiting.is_set():
            await asyncio.Event().wait()
        waiting.set()
        raise OSError("no response")

    read = History(lambda: None)
    read.open = open_
    await read.restart(Supervisor())
    while not read.progress.problem:
        await asyncio.sleep(0)
    assert str(read.progress) == "The history is being read: 0 jobs that have ended; OSError: no response."
    await read.stop()


async def test_an_instance_without_ended_jobs_needs_no_process() -> None:
    async def open_() -> tuple[int, Sequence[str]]:
        return 0, ["/nonexistent"]

    available = asyncio.Event()
    read = History(available.set)
    read.open = open_
    await read.restart(Supervisor())
    assert (await take(read, available)).complete
    await read.stop()


async def test_frames_that_are_not_taken_hold_the_process_up(tmp_path: Path) -> None:
    """Whatever the history is long: only a few frames are in memory."""
    endless = "import sys\nwhile True: sys.stdout.buffer.write(bytes.fromhex(sys.argv[1]))"
    async with reading([sys.executable, "-c", endless, encode(Frame(1)).hex()]) as (read, event):
        for _ in range(100):
            await take(read, event)
        while len(read) < history._AHEAD:
            await asyncio.sleep(0)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(read) == history._AHEAD


async def test_a_process_ends_when_its_frames_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker queues the events that it does not read. Another one starts when the frames are stored."""
    monkeypatch.setattr(history, "_TAKEN", 0.05)
    many, rest = b"".join(encode(Frame(number)) for number in (1, 2, 3)), encode(Frame(4, complete=True))
    async with reading(writes(many, stay=True), writes(rest, stay=True)) as (read, event):
        while not read.progress.problem:
            await asyncio.sleep(0.01)
        assert read.progress.problem == "the jobs that were read have not been stored for 0.05 s"
        monkeypatch.setattr(history, "_TAKEN", 60.0)
        assert [(await take(read, event)).read for _ in range(3)] == [1, 2, 4]


async def test_the_next_process_starts_when_the_frames_before_are_stored() -> None:
    """It looks up in the store what it can leave out."""
    starts: list[int] = []
    taken = 0

    async def open_() -> tuple[int, Sequence[str]]:
        starts.append(taken)
        return 9, writes(encode(Frame(1)) + encode(Frame(2)))

    available = asyncio.Event()
    read = History(available.set)
    read.open = open_
    await read.restart(Supervisor())
    async with asyncio.timeout(60):
        while len(starts) < 3:
            available.clear()
            await available.wait()
            while read:
                read.take()
                await asyncio.sleep(0)  # the write of the frame
                taken += 1
                read.written()
                await asyncio.sleep(0)
    await read.stop()
    assert starts == [0, 2, 4]


async def test_a_stop_kills_the_process(tmp_path: Path) -> None:
    """Also one that takes no signal but SIGKILL."""
    pid = tmp_path / "pid"
    stubborn = (
        "import os, signal, sys, time; [signal.signal(number, signal.SIG_IGN) for number in (2, 15)];"
        "open(sys.argv[1] + '.new', 'w').write(str(os.getpid())); os.rename(sys.argv[1] + '.new', sys.argv[1]);"
        "time.sleep(600)"
    )
    async with reading([sys.executable, "-c", stubborn, str(pid)]) as (read, _):
        while not pid.exists():
            await asyncio.sleep(0.01)
        await read.stop()
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIG_DFL)
