"""Lines are written immediately, or later and in order, or counted as lost; no caller blocks."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.runtime.log_writer import LogWriter, writer_to
from tests.support.harness import eventually


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    for each in (reader, writer):
        try:
            os.close(each)
        except OSError:  # the test has closed it
            continue


def read(reader: int, wanted: bytes) -> bytes:
    """Read until the last line is ``wanted``."""
    received = bytearray()

    def ends() -> bool:
        try:
            received.extend(os.read(reader, 1 << 20))
        except BlockingIOError:
            return False
        return received.endswith(wanted + b"\n")

    eventually(ends, what=f"the line {wanted!r}")
    return bytes(received)


@pytest.mark.parametrize("reopened", [True, False], ids=["reopened", "inherited"])
def test_more_lines_than_a_pipe_holds(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, reopened: bool) -> None:
    reader, fd = pipe
    if not reopened:
        monkeypatch.setattr("sidecar.runtime.log_writer._nonblocking", lambda given: given)
    writer = LogWriter(fd)
    lines = [f"{number} " + "x" * (number % 7000) for number in range(200)]
    for line in lines:
        writer.write(line)
    assert read(reader, lines[-1].encode()).decode().splitlines() == lines
    writer.write("immediately")
    assert os.read(reader, 100) == b"immediately\n"
    assert writer.lost == 0


def test_lines_over_the_limit_are_counted(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LogWriter(fd)
    for number in range(2000):
        writer.write(f"{number} " + "x" * 1000)
    lost = writer.lost
    assert 700 < lost < 1000  # the others are in the pipe and the queue
    text = read(reader, f"{1999 - lost} ".encode() + b"x" * 1000).decode().splitlines()
    assert [line.partition(" ")[0] for line in text] == [str(number) for number in range(2000 - lost)]
    assert writer.lost == 0


def test_a_reader_that_exits_while_lines_are_queued(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LogWriter(fd)
    for _ in range(200):
        writer.write("x" * 1000)
    os.close(reader)
    eventually(lambda: not writer._queue, what="an empty queue")
    assert writer.lost > 0


def test_from_many_threads(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    writer = LogWriter(fd)

    def write(name: str) -> None:
        for number in range(500):
            writer.write(f"{name} {number}")

    threads = [threading.Thread(target=write, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.write("end")
    lines = read(reader, b"end").decode().splitlines()[:-1]
    assert sorted(lines) == sorted(f"{name} {number}" for name in "abcd" for number in range(500))


def test_text_that_is_not_unicode(pipe: tuple[int, int]) -> None:
    reader, fd = pipe
    LogWriter(fd).write("a\udc80b")
    assert os.read(reader, 100) == b"a\\udc80b\n"


def test_no_standard_error(tmp_path: Path) -> None:
    writer_to(None).write("nothing")
    with (tmp_path / "closed").open("w") as file:
        pass
    writer_to(file).write("nothing")
