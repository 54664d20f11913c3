"""Output eventlogs: every byte of a valid entry is returned, whatever is beside it and however the log is cut."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.api.lines import as_bytes, as_strings
from sidecar.domain import output, output_eventlog
from sidecar.domain.output import Run
from sidecar.domain.output_eventlog import Assembler

Written = tuple[str, str, bytes]

WRITTEN = st.lists(
    st.tuples(
        st.sampled_from(["stdout", "stderr"]),
        st.sampled_from(["0", "1", "17"]),
        st.one_of(st.text(st.sampled_from("aé\n€🥞\u2028\x85\r"), max_size=30).map(str.encode), st.binary(max_size=20)),
    ),
    max_size=20,
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
HOSTILE = st.one_of(
    st.builds(
        lambda name, context: json.dumps({"timestamp": 1, "name": name, "context": context}).encode(),
        st.sampled_from(["data", "redirect", "log", "header", "x", 5, None]),
        st.one_of(
            ANYTHING,
            st.dictionaries(
                st.sampled_from(
                    [
                        "stream",
                        "rank",
                        "data",
                        "encoding",
                        "path",
                        "eof",
                        "level",
                        "message",
                        "component",
                        "file",
                        "line",
                        "repeat",
                    ]
                ),
                ANYTHING,
            ),
            st.fixed_dictionaries(
                {
                    "stream": st.sampled_from(["stdout", "sideways", 5, None, ["stdout"]]),
                    "rank": st.one_of(st.just("0" * 1000), ANYTHING),
                    "data": ANYTHING,
                    "encoding": st.sampled_from(["base64", "rot13", {}, 7, "UTF-8"]),
                }
            ).filter(lambda context: not isinstance(context["data"], str)),
        ),
    ).filter(lambda line: not _is_data(line)),
    st.binary(max_size=40).map(lambda some: some.replace(b"\n", b"")),
    st.sampled_from(
        [
            b"[" * 100_000,
            b'{"name":"data","context":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
            rb'{"name":"data","context":{"stream":"stdout","rank":"0","data":"\ud800\n"}}',
            b'{"name":"data","context":{"stream":"stdout","rank":1e999,"data":"x"}}',
            b'{"name":"data","context":{"stream":"stdout","rank":"0","data":"\xff\n"}}',
            b'{"name":"data","context":{"stream":"stdout","rank":"0","data":"%","encoding":"base64"}}',
        ]
    ),
)


def _is_data(line: bytes) -> bool:
    """Whether a random entry is valid."""
    context = json.loads(line)["context"]
    return isinstance(context, dict) and isinstance(context.get("data"), str)


def entry(stream: str, rank: str, data: bytes) -> bytes:
    context: dict[str, Any] = {"stream": stream, "rank": rank}
    try:
        context["data"] = data.decode()
    except UnicodeDecodeError:
        context |= {"encoding": "base64", "data": base64.b64encode(data).decode()}
    return json.dumps({"timestamp": 1.5, "name": "data", "context": context}).encode() + b"\n"


def expected(written: Sequence[Written]) -> list[Written]:
    """Return the lines in the order in which they were completed, then those without a newline."""
    lines_: list[Written] = []
    open_lines: dict[tuple[str, str], bytes] = {}
    for stream, rank, data in written:
        *lines, rest = (open_lines.pop((stream, rank), b"") + data).split(b"\n")
        lines_ += [(stream, rank, line + b"\n") for line in lines]
        if rest:
            open_lines[stream, rank] = rest
    return lines_ + [(*key, rest) for key, rest in open_lines.items()]


def lines_of(runs: Sequence[Run]) -> list[Written]:
    return [
        (run.stream, run.rank, line) for run in runs if run.stream not in ("log", "redirect") for line in run.lines()
    ]


def read(log: bytes, cuts: Sequence[int] = ()) -> tuple[list[Run], Assembler]:
    """Process a log in chunks; continue with a copy after each, as a later reader does."""
    assembler, runs, begin = Assembler(), [], 0
    for end in [*sorted(min(cut, len(log)) for cut in cuts), len(log)]:
        runs += assembler.feed(log[begin:end])
        assembler, begin = assembler.copy(), end
    assert all(run.length == len(run.lines()) for run in runs)
    return runs + assembler.rest(), assembler


#: Limits that short lines exceed; a slice of characters is at most as long as a line, in bytes, as in production.
SMALL = [
    (output, "LONGEST_LINE", 9),
    (output, "RUN_SIZE", 8),
    (output, "RUN_LINES", 2),
    (output_eventlog, "_SLICE", 3),
    (output_eventlog, "_INCOMPLETE", 700),
]


@given(WRITTEN, st.lists(st.integers(0, 4000), max_size=6))
def test_lines_are_whole_and_in_order(written: list[Written], cuts: list[int]) -> None:
    runs, _ = read(b"".join(entry(*each) for each in written), cuts)
    assert lines_of(runs) == expected(written)


@settings(max_examples=300)
@given(WRITTEN, st.lists(st.integers(0, 4000), max_size=6))
def test_long_lines_in_parts(written: list[Written], cuts: list[int]) -> None:
    """The parts are the same wherever the log is cut, limited, and complete; none ends within a character."""
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        log = b"".join(entry(*each) for each in written)
        runs, _ = read(log, cuts)
        assert lines_of(runs) == lines_of(read(log)[0])
    parts = lines_of(runs)
    for stream, rank, each in parts:
        assert len(each.removesuffix(b"\n")) <= 9 + 3, (stream, rank)
    bytes_of: dict[tuple[str, str], bytes] = defaultdict(bytes)
    for stream, rank, each in parts:
        bytes_of[stream, rank] += each
    wrote: dict[tuple[str, str], bytes] = defaultdict(bytes)
    for stream, rank, each in written:
        wrote[stream, rank] += each
    assert bytes_of == {key: value for key, value in wrote.items() if value}


@settings(max_examples=500)
@given(st.lists(st.one_of(HOSTILE, WRITTEN.map(lambda some: some[:1])), max_size=12), st.lists(st.integers(0, 2000)))
def test_an_invalid_entry_does_not_affect_others(parts: list[Any], cuts: list[int]) -> None:
    written = [each for part in parts if isinstance(part, list) for each in part]
    log = b"".join(
        b"".join(entry(*each) for each in part) if isinstance(part, list) else part + b"\n" for part in parts
    )
    runs, assembler = read(log, cuts)
    assert lines_of(runs) == expected(written)
    assert bool(assembler.reason) == bool(assembler.unreadable)


def test_the_same_state_continues_in_the_same_way() -> None:
    half = Assembler()
    half.feed(entry("stdout", "0", b"half a "))
    other = half.copy()
    assert half.state == other.state != Assembler().state == b""
    assert half.feed(entry("stdout", "0", b"line\n")) == other.feed(entry("stdout", "0", b"line\n"))
    assert half.state == other.state == b""


def test_incomplete_lines_of_many_tasks_are_limited() -> None:
    """100,000 tasks write 100 bytes of a line each: their memory is limited, and no byte is lost."""
    assembler, size = Assembler(), 0
    for first in range(0, 100_000, 1000):
        log = b"".join(entry("stdout", str(rank), b"x" * 100) for rank in range(first, first + 1000))
        size += sum(len(run.data) for run in assembler.feed(log))
        assert sum(len(run.data) for run in assembler.rest()) <= 4 * 1024 * 1024
    assert size + sum(len(run.data) for run in assembler.rest()) == 100_000 * 100


def test_an_entry_that_never_ends_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_eventlog, "_LONGEST_ENTRY", 1000)
    assembler, runs = Assembler(), []
    runs += assembler.feed(entry("stdout", "0", b"before\n") + b'{"name":"data","context":{"data":"')
    for _ in range(100):
        runs += assembler.feed(b"x" * 100)
    runs += assembler.feed(b'"}}\n' + entry("stdout", "0", b"behind\n"))
    assert [run.data for run in runs] == [b"before\n", b"behind\n"]
    assert assembler.unreadable == 1


@given(st.lists(st.binary(max_size=12).map(lambda data: data.replace(b"\n", b"") + b"\n"), min_size=1, max_size=8))
def test_invalid_utf8_is_replaced_within_its_line(lines: list[bytes]) -> None:
    """By U+FFFD, and never across the end of a line."""
    runs = [Run("stdout", "0", b"".join(lines), len(lines)), Run("stdout", "0", b"\xe2\x82", 1)]
    shown = json.loads(b"[" + as_strings(runs, "both") + b"]")
    assert shown == [*(line.decode(errors="replace") for line in lines), "\ufffd"]
    assert as_strings(runs, "stderr") == b""


def other(name: str, **context: Any) -> bytes:
    return json.dumps({"timestamp": 1.5, "name": name, "context": context}).encode() + b"\n"


def test_entries_of_the_shell_are_between_the_lines() -> None:
    """In order, each with its rank and level; an invalid entry does not affect others."""
    log = [
        other("header", version=1, encoding={"stdout": "UTF-8"}, count={"stdout": 1, "stderr": 1}, options={}),
        other("redirect", stream="stderr", rank="[0-3]", path="/tmp/err"),
        entry("stdout", "0", b"one\n"),
        other("log", level=4, rank=1, message="a warning\n", component="output", file="kvs.c", line=66),
        other("log", level=5, message="a\nnotice"),
        *(other("log", level=level, message="none") for level in (8, -1, "4", None, True)),
        other("log", level=4, message=7),
        other("redirect", stream="sideways", rank="0", path="/tmp/x"),
        entry("stdout", "0", b"two\n"),
        entry("log", "", b"{}\n"),
    ]
    assembler = Assembler()
    runs = assembler.feed(b"".join(log))
    assert [(run.stream, run.length) for run in runs] == [("redirect", 1), ("stdout", 1), ("log", 2), ("stdout", 1)]
    said = [line for run in runs if run.stream == "log" for line in run.lines()]
    assert json.loads(said[0]) == {
        "level": 4, "rank": "1", "message": "a warning", "component": "output", "file": "kvs.c", "line": 66
    }  # fmt: skip
    assert as_bytes(runs, "log").decode() == (
        "[0-3]: stderr redirected to /tmp/err\nflux-shell[1]:  WARN: output: a warning\nflux-shell: a\nnotice\n"
    )
    assert as_bytes(runs, "both") == as_bytes(runs, "stdout") == b"one\ntwo\n"
    assert as_strings(runs, "both") == b'"one\\n","two\\n"'
    assert assembler.unreadable == 8


def test_a_task_cannot_write_entries_of_the_shell() -> None:
    """Data of an unknown stream is skipped, whatever its name and position."""
    log = other("log", level=4, message="the shell's")
    odd = [
        entry(stream, rank, data)
        for stream in ("log", "redirect", "")
        for rank in ("", "0")
        for data in (b"x\n", b"{}")
    ]
    for each in odd:
        assembler = Assembler()
        runs = assembler.feed(each + log + each + each + log + entry("stdout", "0", b"out\n") + each) + assembler.rest()
        assert [(run.stream, run.length) for run in runs] == [("log", 1), ("log", 1), ("stdout", 1)], each
        assert as_bytes(runs, "log") == b"flux-shell:  WARN: the shell's\n" * 2
        assert assembler.unreadable == 4


@pytest.mark.parametrize(
    ("repeat", "wanted"),
    [(1, b"ab\n"), (3, b"ab\nab\nab\n"), (0, b""), (-1, b""), (10**9, b""), ("3", b""), (None, b"")],
)
def test_repeated_data(repeat: Any, wanted: bytes) -> None:
    """RFC 24: an entry may repeat its data, up to the size of an entry."""
    assembler = Assembler()
    runs = assembler.feed(other("data", stream="stdout", rank="0", data="ab\n", repeat=repeat))
    assert as_bytes(runs, "both") == wanted
    assert bool(assembler.unreadable) == (wanted == b"" and repeat != 0)
