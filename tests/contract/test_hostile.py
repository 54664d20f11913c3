"""Arbitrary job parameters: refused with what to change, or accepted; other callers are not affected."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from tests.support import hostile
from tests.support.harness import Server, embedded, eventually

_FUZZ = settings(
    max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
_JSON = {"Content-Type": "application/json"}
_MANY_PARTS = ".".join("a" * 100)


def send(server: Server, body: bytes, path: str = "/v1/jobs/submit") -> httpx.Response:
    return server.http.post(path, content=body, headers=_JSON)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"per-resource": {"type": "core", "count": [1, 2]}}, "per-resource"),
        ({"per-resource": {"type": "core", "count": "x"}}, "the count is 'x'"),
        ({"per-resource": {"type": "core", "count": 0}}, "the count is 0"),
        ({"per-resource": {"type": "core", "count": True}}, "the count is True"),
        ({"per-resource": {"type": "core", "count": 2**40}}, "the count is"),
        ({"per-resource": {"type": "rack", "count": 1}}, "the type is 'rack'"),
        ({"per-resource": {"type": ["core"], "count": 1}}, "the type is a list of 1"),
        ({"per-resource": [1]}, "a list of 1"),
        ({"per-resource": "core"}, "'core'"),
        ({"per-resource.type": "core", "per-resource.count": "x"}, "the count is 'x'"),
        ({"input.stdin.path": 7}, "the path of a file; got 7"),
        ({"input.stdin.path": ""}, "the path of a file"),
        ({"input.stdin.path": [1]}, "the path of a file"),
        ({"input.stdin": "x"}, "input.stdin"),
        ({"input": 5}, "input"),
        ({"output.stdout.path": 1}, "output.stdout.path"),
        ({"output": [1]}, "output"),
        ({"x": 10**30}, "64 bits"),
        ("x=NaN", "finite"),
        ("x=1e999", "finite"),
        ({_MANY_PARTS: 1}, "not the name of a shell option"),
        ({"x": "@deep70@"}, "nested"),
        ({"x": "@deep500@"}, "nested"),
        ({"x": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "nested"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("dry", [True, False])
def test_shell_options_that_flux_rejects(server: Server, flags: Any, words: str, dry: bool) -> None:
    answer = send(server, hostile.text({"command": ["true"], "option_flags": flags, "dry_run": dry}))
    assert answer.status_code == 400, answer.text
    assert words in answer.json()["detail"]
    assert "option_flags" in answer.json()["Errors"][0]
    assert len(answer.content) < 2000


@pytest.mark.parametrize("name", ["command", "envars", "option_flags", "dependencies", "name", "urgency", "unknown"])
@pytest.mark.parametrize("value", ["@deep70@", "@deep500@", "@deep1990@", "@longest@"])
def test_json_that_is_too_deep_and_numbers_that_are_too_long(server: Server, name: str, value: str) -> None:
    answer = send(server, hostile.text({"command": ["true"], "dry_run": True, name: value}))
    assert answer.status_code == 400, answer.text
    assert len(answer.content) < 3000


def test_length_of_names(server: Server) -> None:
    for name in ("name", "queue", "workdir"):
        answer = send(server, hostile.text({"command": ["true"], name: "n" * 100_000}))
        assert answer.status_code == 400
        assert name in answer.json()["detail"]
        assert len(answer.content) < 2000


_BODY = st.fixed_dictionaries(
    {"command": hostile.or_odd(["true"], "true", [], [""], "'", {"a": 1})},
    optional={
        "option_flags": st.one_of(hostile.members(**{"per-resource": hostile.ANY, "input.stdin.path": hostile.ANY, "input": hostile.ANY, "verbose": hostile.ANY}), hostile.ANY),
        "envars": st.one_of(st.dictionaries(hostile.TEXTS, hostile.TEXTS, max_size=2), hostile.ANY),
        "num_tasks": hostile.NUMBERS, "cores_per_task": hostile.NUMBERS, "gpus_per_task": hostile.NUMBERS, "num_nodes": hostile.NUMBERS,
        "exclusive": hostile.ANY, "runtime": hostile.NUMBERS, "urgency": hostile.NUMBERS, "name": hostile.TEXTS, "queue": hostile.ANY,
        "dependencies": hostile.ANY, "stdin": hostile.TEXTS, "workdir": hostile.or_odd("/tmp"),
    },
)  # fmt: skip


@_FUZZ
@given(_BODY)
def test_any_body_of_a_submit(server: Server, body: dict[str, Any]) -> None:
    for dry in (True, False):
        answer = send(server, hostile.text({**body, "dry_run": dry}))
        assert answer.status_code in (200, 400), answer.text
        assert "failed" not in answer.json()["Message"]
        if not dry and answer.status_code == 200:
            job = answer.json()["id"]
            assert server.http.get(f"/v1/jobs/{job}").status_code == 200
            assert server.http.get(f"/jobs/{job}").status_code == 200
            server.http.post(f"/v1/jobs/{job}/cancel")
    assert server.http.get("/readyz").status_code == 200


@_FUZZ
@given(st.lists(st.one_of(_BODY, hostile.ANY), min_size=1, max_size=8))
def test_any_line_of_a_bulk(server: Server, lines: list[Any]) -> None:
    body = b"\n".join([*map(hostile.text, lines), b'{"command":["true"],"name":"behind them"}'])
    assume(not body.lstrip().startswith(b"["))  # refused as a whole: it looks like an array of jobs
    answer = server.http.post("/v1/jobs/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [each["line"] for each in results] == list(range(1, len(lines) + 2))
    assert {each["status"] for each in results} <= {200, 400}, answer.text
    assert results[-1]["status"] == 200
    for each in results:
        if each["status"] == 200:
            server.http.post(f"/v1/jobs/{each['id']}/cancel")  # commands and dependencies are arbitrary


def test_all_jobs_are_listed_and_shown(server: Server) -> None:
    """After the jobs of the tests above, every list and every page is complete."""
    last = server.run("true")
    for path in (
        "/v1/jobs?details=true&listing=true",
        "/v1/jobs?limit=100&details=true",
        "/v1/jobs/search?length=100",
        "/v1/queues",
    ):
        answer = server.http.get(path)
        assert answer.status_code == 200
        assert answer.json()
    for path in (
        "/",
        "/jobs",
        "/jobs?sort=name",
        "/nodes",
        "/metrics",
        "/stop",
        f"/jobs/{last['id']}",
        f"/jobs/submit?like={last['id']}",
    ):
        assert server.http.get(path).status_code == 200
    for line in server.text().splitlines():
        assert "a request failed" not in line
        assert "cannot be folded" not in line


def test_long_command_is_truncated_in_lists_and_complete_in_its_jobspec(server: Server) -> None:
    words = ["echo", "y" * 50_000, *("z" * 100 for _ in range(50)), "the end"]
    job = server.run(words, urgency=16)
    listed = server.job(job["id"])["command"]
    assert listed[-1] == "…"
    assert len(json.dumps(listed)) < 20_000
    assert server.http.get(f"/v1/jobs/{job['id']}/jobspec").json()["tasks"][0]["command"] == words
    page = server.http.get(f"/jobs/submit?like={job['id']}")
    assert "the end" in page.text, "a resubmit uses the whole command"
    assert "jobspec" in server.http.get(f"/jobs/{job['id']}").text


def test_stop_ends_all_jobs(own_server: Callable[..., Server]) -> None:
    server = own_server()
    for flags in (
        {"verbose": "x"},
        {"per-resource": {"type": "node", "count": 2}},
        {"input.stdin.path": "/no/such"},
        {"a": {"b": [None]}},
    ):
        answer = send(server, hostile.text({"command": ["sleep", "600"], "option_flags": flags, "name": "\u202e<b>"}))
        assert answer.status_code == 200, answer.text
    assert server.stop().status_code == 202
    assert server.wait(60) == 0


def test_embedded_engine_opens_no_file_for_a_task(tmp_path: Path, started: Callable[[Any], Any]) -> None:
    """The path may be one of the server's own descriptors, or a pipe whose open blocks."""
    server = started(embedded(tmp_path)).ready()
    fifo, text = tmp_path / "fifo", tmp_path / "text"
    os.mkfifo(fifo)
    text.write_text("from the file\n")
    waiting = server.submit(["cat"], option_flags={"input.stdin.path": str(fifo)})
    of_file = server.run(["cat"], option_flags={"input.stdin.path": str(text)})
    assert server.output(of_file["id"]) == ["from the file\n"]
    held = server.descriptors
    for number in range(20):  # the server's own: its store, its sockets, its log
        assert server.run(["true"], option_flags={"input.stdin.path": f"/proc/self/fd/{number}"})["state"] == "INACTIVE"
    assert server.descriptors <= held + 2
    assert server.http.get("/readyz").status_code == 200
    fifo.write_text("at last\n")
    eventually(lambda: server.output(waiting) == ["at last\n"], what="the job that waited for its pipe")
