"""What a job writes is what a reader gets: all of it, in order, at once."""

from __future__ import annotations

import time

from tests.harness import Server, eventually


def test_a_megabyte_of_lines(server: Server) -> None:
    job = server.run(["seq", "1", "170000"])
    lines = server.output(job["id"])
    assert sum(map(len, lines)) > 1_000_000
    assert lines == [f"{number}\n" for number in range(1, 170001)]


def test_binary_bytes_are_kept(server: Server) -> None:
    script = "printf 'a\\377\\376\\000b\\nlast'"
    job = server.run(["sh", "-c", script])["id"]
    raw = server.http.get(f"/v1/jobs/{job}/output", headers={"Accept": "text/plain"})
    assert raw.content == b"a\xff\xfe\x00b\nlast"
    assert raw.headers["Content-Type"].startswith("text/plain")
    assert server.output(job) == ["a\ufffd\ufffd\0b\n", "last"]


def test_text_that_looks_like_line_ends_is_kept(server: Server) -> None:
    text = "a\u2028b\x85c\x0bd\re\n"
    job = server.run(["printf", "%s", text])["id"]
    assert server.output(job) == [text]


def test_no_newline_at_the_end(server: Server) -> None:
    job = server.run(["printf", "one\\ntwo"])["id"]
    assert server.output(job) == ["one\n", "two"]


def test_stdout_and_stderr_in_order(server: Server) -> None:
    """The streams are two pipes: only what is apart in time has an order."""
    script = "for i in 1 2 3; do echo out$i; sleep 0.3; echo err$i >&2; sleep 0.3; done"
    job = server.run(["sh", "-c", script])["id"]
    assert server.output(job) == ["out1\n", "err1\n", "out2\n", "err2\n", "out3\n", "err3\n"]
    assert server.output(job, stream="stdout") == ["out1\n", "out2\n", "out3\n"]
    assert server.output(job, stream="stderr") == ["err1\n", "err2\n", "err3\n"]


def test_a_job_that_still_runs(server: Server) -> None:
    job = server.submit(["sh", "-c", "echo first; sleep 60; echo never"])
    eventually(lambda: server.output(job) == ["first\n"], what="first line")
    before = time.monotonic()
    assert server.output(job) == ["first\n"]
    assert time.monotonic() - before < 5, "a running job's output is answered at once, not when the job ends"
    assert server.job(job)["state"] == "RUN"
    server.http.post(f"/v1/jobs/{job}/cancel")


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
