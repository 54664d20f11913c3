"""Output of jobs: complete, in order and without delay."""

from __future__ import annotations

import http.client
import socket
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.support.harness import Server, eventually
from tests.support.sse import connect, messages


def test_megabyte_of_lines(server: Server) -> None:
    job = server.run(["seq", "1", "170000"])
    lines = server.output(job["id"])
    assert sum(map(len, lines)) > 1_000_000
    assert lines == [f"{number}\n" for number in range(1, 170001)]


def test_binary_bytes_are_preserved(server: Server) -> None:
    script = "printf 'a\\377\\376\\000b\\nlast'"
    job = server.run(["sh", "-c", script])["id"]
    raw = server.http.get(f"/v1/jobs/{job}/output", headers={"Accept": "text/plain"})
    assert raw.content == b"a\xff\xfe\x00b\nlast"
    assert raw.headers["Content-Type"].startswith("text/plain")
    assert server.output(job) == ["a\ufffd\ufffd\0b\n", "last"]


def test_unusual_line_separators_are_preserved(server: Server) -> None:
    text = "a\u2028b\x85c\x0bd\re\n"
    job = server.run(["printf", "%s", text])["id"]
    assert server.output(job) == [text]


def test_missing_final_newline(server: Server) -> None:
    job = server.run(["printf", "one\\ntwo"])["id"]
    assert server.output(job) == ["one\n", "two"]


def test_stdout_and_stderr_in_order(server: Server) -> None:
    """The streams are two pipes, so only writes at different times have an order."""
    script = "for i in 1 2 3; do echo out$i; sleep 0.3; echo err$i >&2; sleep 0.3; done"
    job = server.run(["sh", "-c", script])["id"]
    assert server.output(job) == ["out1\n", "err1\n", "out2\n", "err2\n", "out3\n", "err3\n"]
    assert server.output(job, stream="stdout") == ["out1\n", "out2\n", "out3\n"]
    assert server.output(job, stream="stderr") == ["err1\n", "err2\n", "err3\n"]


def test_output_of_a_running_job(server: Server) -> None:
    job = server.submit(["sh", "-c", "echo first; sleep 60; echo never"])
    eventually(lambda: server.output(job) == ["first\n"], what="first line")
    before = time.monotonic()
    assert server.output(job) == ["first\n"]
    assert time.monotonic() - before < 5, "a running job's output is answered at once, not when the job ends"
    assert server.job(job)["state"] == "RUN"
    server.http.post(f"/v1/jobs/{job}/cancel")


def test_later_reads_include_new_output(server: Server, tmp_path: Path) -> None:
    """Each read returns all output so far, also of an incomplete line."""
    steps = [tmp_path / str(number) for number in range(3)]
    waits = [f"while [ ! -e {step} ]; do sleep 0.02; done" for step in steps]
    script = f"printf 'one\\ntw'; {waits[0]}; printf o; {waits[1]}; printf '\\nthree\\n'; {waits[2]}"
    job = server.submit(["sh", "-c", script], option_flags={"output.stdout.buffer.type": "none"})
    seen = (["one\n", "tw"], ["one\n", "two"], ["one\n", "two\n", "three\n"])
    for step, lines in zip(steps, seen, strict=True):
        eventually(lambda lines=lines: server.output(job) == lines, what=f"{lines}")  # type: ignore[misc]
        assert server.http.get(f"/v1/jobs/{job}/output", headers={"Accept": "text/plain"}).text == "".join(lines)
        step.touch()
    server.ended(job)
    assert server.output(job) == list(seen[-1])


def test_no_output_yet(server: Server) -> None:
    job = server.submit("true", urgency=0)
    body = server.http.get(f"/v1/jobs/{job}/output").json()
    assert body["Output"] == []
    assert "The output does not exist yet" in body["Message"]
    server.http.post(f"/v1/jobs/{job}/cancel")


def test_a_job_without_output(server: Server) -> None:
    body = server.http.get(f"/v1/jobs/{server.run('true')['id']}/output").json()
    assert body["Output"] == []
    assert body["Message"]


def test_lines_of_many_tasks_stay_whole(server: Server) -> None:
    script = 'for i in 1 2 3 4 5; do printf "$FLUX_TASK_RANK-"; sleep 0.05; echo end; done'
    job = server.run(["sh", "-c", script], num_tasks=2)["id"]
    assert sorted(server.output(job)) == sorted(f"{rank}-end\n" for rank in (0, 1) for _ in range(5))


#: Output of jobs, by a name for it: a command, the bytes, and the number of tasks that write them.
WRITTEN = {
    "nothing": ("true", b""),
    "one line": ("echo one", b"one\n"),
    "no newline": ("printf one", b"one"),
    "a newline alone": ("echo", b"\n"),
    "lines of two bytes": ("yes | head -n 30000", b"y\n" * 30000),
    "many lines": ("seq -f %039.0f 50000", b"".join(b"%039d\n" % number for number in range(1, 50001))),
    "a long line": ("head -c 3000000 /dev/zero | tr '\\0' a; echo; echo b", b"a" * 3_000_000 + b"\nb\n"),
    "a long line without an end": ("head -c 2500001 /dev/zero | tr '\\0' a", b"a" * 2_500_001),
    "characters": ("yes 'ä€🥞' | head -c 400000", ("ä€🥞\n".encode() * 40000)[:400000]),
    "a long line of characters": ("yes '€' | tr -d '\\n' | head -c 3000000", "€".encode() * 1_000_000),
    "bytes": (
        r"i=0; while [ $i -lt 3000 ]; do printf '\000\377\n\376\001\r'; i=$((i+1)); done",
        b"\x00\xff\n\xfe\x01\r" * 3000,
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_every_byte_in_every_format(server: Server, name: str) -> None:
    command, written = WRITTEN[name]
    job = server.run(["sh", "-c", command], within=60)["id"]
    path = f"/v1/jobs/{job}/output"
    for each in (path, f"{path}/stream", f"{path}/stream?follow=false", f"{path}?stream=stdout"):
        assert server.http.get(each, headers={"Accept": "text/plain"}).content == written, each
    assert server.http.get(f"/jobs/{job}/output").content == written
    assert server.http.get(f"{path}?stream=stderr", headers={"Accept": "text/plain"}).content == b""
    shown = [line.decode(errors="replace") for line in written.splitlines(keepends=True) if name != "bytes"]
    lines = server.output(job)
    events = list(messages(server, f"{path}/stream"))[:-1]
    assert [event.data["data"] for event in events] == lines
    assert [event.id for event in events] == [str(number) for number in range(1, len(lines) + 1)]
    assert "".join(lines) == written.decode(errors="replace")
    assert max(map(len, lines), default=0) <= 1024 * 1024
    if not name.startswith("a long line") and name != "bytes":
        assert lines == shown
    tail = [message.data["data"] for message in list(messages(server, f"{path}/stream", tail=3))[:-1]]
    assert tail == lines[-3:] or name.startswith("a long line")


def test_headers_of_a_tail_are_sent_first(server: Server) -> None:
    """However far the requested lines are from the end."""
    script = "echo one >&2; sleep 0.3; seq -f %0100.0f 200000; sleep 0.3; echo two >&2"
    job = server.run(["sh", "-c", script], within=60)["id"]
    host, port = server.url.removeprefix("http://").split(":")
    seconds = []
    for _ in range(3):
        with closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
            begin = time.monotonic()
            connection.request("GET", f"/v1/jobs/{job}/output/stream?tail=2&stream=stderr")
            answer = connection.getresponse()
            head = time.monotonic() - begin
            data = answer.read()
            seconds.append((time.monotonic() - begin) / head)
        assert [data.count(b'"data":"%b' % each) for each in (b"one", b"two", b"0")] == [1, 1, 0]
        assert b'"reason":"ended"' in data
    assert max(seconds) > 2


def test_store_that_cannot_be_read_temporarily(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """A stream of output waits for the store if it can; one that needs the store now ends with the reason."""
    store, go = tmp_path / "jobs.sqlite", tmp_path / "go"
    server = own_server("--store", str(store), "--log-format", "json")
    script = f"echo one; while [ ! -e {go}1 ]; do sleep 0.02; done; echo two; while [ ! -e {go}2 ]; do sleep 0.02; done"
    job = server.submit(["sh", "-c", script])
    with connect(server.url, f"/v1/jobs/{job}/output/stream") as stream, closing(sqlite3.connect(store)) as other:
        lines = (message.data["data"] for message in stream if message.event == "message")
        assert next(lines) == "one\n"
        other.execute("ALTER TABLE jobs RENAME TO elsewhere")
        Path(f"{go}1").touch()
        eventually(lambda: "output cannot be followed" in server.text(), what="a store that cannot be read")
        other.execute("ALTER TABLE elsewhere RENAME TO jobs")
        assert next(lines) == "two\n"
        other.execute("ALTER TABLE events RENAME TO elsewhere")
        (end,) = messages(server, f"/v1/jobs/{job}/events")
        assert (end.event, end.data["reason"]) == ("end", "unavailable")
        other.execute("ALTER TABLE elsewhere RENAME TO events")
        Path(f"{go}2").touch()
        assert not list(lines)


def test_output_of_several_tasks(server: Server) -> None:
    """The bytes of each task are complete and in order."""
    script = 'i=0; while [ $i -lt 300 ]; do echo "$FLUX_TASK_RANK $i"; echo err >&2; i=$((i+1)); done; printf end'
    job = server.run(["sh", "-c", script], num_tasks=2)["id"]
    for stream, each in (("stdout", [f"{number}" for number in range(300)]), ("stderr", ["err"] * 300)):
        found: dict[str, list[str]] = {"0": [], "1": []}
        for message in messages(server, f"/v1/jobs/{job}/output/stream", stream=stream):
            if message.event == "message":
                assert message.data["stream"] == stream
                found[message.data["rank"]].append(message.data["data"])
        for rank, lines in found.items():
            wanted = [f"{rank} {text}\n" for text in each] + ["end"] if stream == "stdout" else ["err\n"] * 300
            assert lines == wanted


def test_head_returns_the_content_type(server: Server) -> None:
    job = server.run(["seq", "50000"])["id"]
    for path in (f"/v1/jobs/{job}/output", f"/jobs/{job}/output", f"/v1/jobs/{job}/output/stream"):
        answer = server.http.head(path, headers={"Accept": "text/plain"})
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"].startswith("text/plain")
    short = server.run(["echo", "1"])["id"]
    assert server.http.get(f"/v1/jobs/{short}/output").headers["Content-Length"] == "19"


def test_http_1_0_client(server: Server) -> None:
    """Without chunks, the end of the connection ends a long response."""
    job = server.run(["seq", "50000"])["id"]
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(f"GET /v1/jobs/{job}/output HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        received = bytearray()
        while data := connection.recv(65536):
            received += data
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert msgspec.json.decode(body)["Output"] == [f"{number}\n" for number in range(1, 50001)]


def test_reason_for_missing_output(server: Server, tmp_path: Path) -> None:
    """A job that has not started, has written nothing or never ran; also for one of the two streams."""

    def why(job: int, **query: str) -> str:
        body = server.http.get(f"/v1/jobs/{job}/output", params=query).json()
        assert body["Output"] == []
        return str(body["Message"])

    held = server.submit("true", urgency=0)
    assert why(held) == "The output does not exist yet: the job has not started."
    server.http.post(f"/v1/jobs/{held}/cancel")
    server.ended(held)
    assert why(held) == "There is no output: the job never ran."
    go = tmp_path / "go"
    running = server.submit(["sh", "-c", f"while [ ! -e {go} ]; do sleep 0.05; done; echo err >&2"])
    server.state(running, "RUN")
    assert why(running) == "The output does not exist yet: the job has written nothing so far."
    go.touch()
    server.ended(running)
    assert why(running, stream="stdout") == "There is no output: the job has written nothing to stdout."
    assert why(running, stream="log") == "There is no output: the job's shell has logged nothing."
    assert why(server.run("true")["id"]) == "There is no output: the job has written nothing."


def test_stdin_and_environment_of_each_task(server: Server) -> None:
    """Each task reads the whole input, and the command is shown as it was submitted."""
    script = 'read line; echo "$FLUX_TASK_RANK $line $COLOUR"'
    job = server.run(["sh", "-c", script], stdin="a line\n", num_tasks=2, envars={"COLOUR": "blue"})
    assert sorted(server.output(job["id"])) == ["0 a line blue\n", "1 a line blue\n"]
    assert job["command"] == ["sh", "-c", script]
    assert job["name"] == "sh"
