"""Pages and forms as programs see them: errors, and requests that no browser sends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.support.access import TokenFile, audit
from tests.support.harness import Server, eventually

PAGE = {"Accept": "text/html"}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/jobs/f1", 404),
        ("/jobs/nonsense!", 400),
        ("/jobs?page=0", 400),
        ("/jobs?page=1000000", 200),
        ("/jobs?state=asleep", 400),
        ("/jobs?sort=password", 400),
        ("/jobs?q=%00", 400),
        ("/jobs?q=%0a%22%27%25_", 200),
        ("/jobs?q=" + "x" * 4000, 200),
        ("/jobs/submit?like=f1", 404),
        ("/jobs/submit?like=%00", 400),
        ("/job/12345", 303),
        ("/page/%0d%0aX:1", 303),
        ("/nodes?said=%3Cscript%3E", 200),
        ("/nothing", 404),
    ],
)
def test_get_requests(server: Server, path: str, status: int) -> None:
    answer = server.http.get(path, headers=PAGE)
    assert answer.status_code == status, answer.text
    if status != 303:
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
        assert "<script>" not in answer.text
    if status >= 400:
        assert problem(server.http.get(path), status)["title"] in answer.text


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/jobs/cancel", {"data": {"job": ["f1", "f2"], "view": "?q=x"}}, 303),
        ("/jobs/cancel", {"data": {"view": "?\r\nX: y"}}, 303),
        ("/jobs/cancel", {"data": {"view": "//elsewhere.example"}}, 303),
        ("/jobs/cancel", {"data": {"job": "\0"}}, 400),
        ("/jobs/cancel", {"data": {"job": ["f1"] * 501}}, 400),
        ("/jobs/cancel", {"files": {"job": b"x"}}, 400),
        ("/jobs/submit", {"data": {}}, 400),
        ("/jobs/submit", {"data": {"command": ["a", "b"]}}, 400),
        ("/jobs/submit", {"data": {"command": "true", "colour": "red"}}, 400),
        ("/jobs/submit", {"data": {"command": "true", "dry_run": "true"}}, 400),
        ("/jobs/submit", {"content": b"--x", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400),
        ("/jobs/f1/cancel", {"data": {}}, 404),
        ("/jobs/f1/signal", {"data": {"signal": "SIGNONE"}}, 400),
        ("/nodes/nobody/drain", {"data": {"reason": "x"}}, 404),
        ("/stop", {"data": {"mode": "later"}}, 400),
        ("/stop", {"data": {"mode": "now", "force": "true"}}, 400),
    ],
)
def test_post_requests(server: Server, path: str, sent: dict[str, Any], status: int) -> None:
    answer = server.http.post(path, **{**sent, "headers": {**PAGE, **sent.get("headers", {})}})
    assert answer.status_code == status, answer.text
    if status == 303:
        assert answer.headers["Location"].startswith("../jobs")
        assert "elsewhere" not in answer.headers["Location"]
    assert "a request failed" not in server.text()


def test_job_with_many_events(server: Server) -> None:
    """The page shows the first and the last events, and links to all."""
    job = server.submit("true", urgency=0)
    for _ in range(150):
        server.http.post(f"/v1/jobs/{job}/urgency", json={"urgency": 0}).raise_for_status()
    server.http.post(f"/v1/jobs/{job}/cancel", json={"reason": "the last of them"}).raise_for_status()
    assert server.ended(job)["result"] == "CANCELED"
    events = server.http.get(f"/v1/jobs/{job}/eventlog").json()["events"]
    assert len(events) > 300
    shown = server.http.get(f"/jobs/{job}", headers=PAGE).text
    assert shown.count("<li data-state=") == 200
    assert f"{len(events) - 200:,} more events, in " in shown
    assert f'href="../v1/jobs/{server.job(job)["f58id"].replace("ƒ", "f")}/eventlog"' in shown
    before, _, behind = shown[shown.index('id="events"') :].partition(" more events, in ")
    assert "<strong>submit</strong>" in before
    assert "the last of them" in behind
    assert "<strong>clean</strong>" in behind


def test_cross_site_forms_are_refused(server: Server) -> None:
    for path in ("/jobs/submit", "/jobs/cancel", "/stop"):
        answer = server.http.post(
            path,
            data={"command": "true"},
            headers={**PAGE, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        )
        assert answer.status_code == 403


def test_form_submits_a_job_once(own_server: Callable[..., Server]) -> None:
    server = own_server()
    answer = server.http.post("/jobs/submit", data={"command": "echo hi", "name": "n", "num_tasks": ""}, headers=PAGE)
    assert answer.status_code == 303
    job = answer.headers["Location"].rsplit("/", 1)[1]
    assert server.ended(job)["name"] == "n"
    assert server.http.get(f"/jobs/{job}/output").text == "hi\n"


def test_form_starts_a_launcher_once(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """A launcher is not a job: the next page is the list, which will contain its jobs."""
    program = tmp_path / "bin" / "snakemake"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\nexit 7\n")
    program.chmod(0o755)
    server = own_server(PATH=f"{program.parent}:{os.environ['PATH']}")
    answer = server.http.post("/jobs/submit", data={"command": "snakemake", "is_launcher": "yes"}, headers=PAGE)
    assert answer.status_code == 303
    assert answer.headers["Location"] == "../jobs?said=launched"
    shown = server.http.get("/jobs?said=launched", headers=PAGE).text
    assert "The launcher was started" in shown
    assert "said=" not in shown
    assert len(server.http.get("/v1/launchers").json()["launchers"]) == 1
    refused = server.http.post(
        "/jobs/submit", data={"command": "snakemake", "is_launcher": "yes", "num_tasks": "2"}, headers=PAGE
    )
    assert refused.status_code == 400
    assert "leave out num_tasks" in refused.text


def test_audit_of_chosen_jobs_contains_their_ids(own_server: Callable[..., Server]) -> None:
    """Of the jobs that are cancelled, not of those that ended before."""
    server = own_server("--log-format", "json")
    held = [server.submit("true", urgency=0) for _ in range(3)]
    ended = server.run("true")
    chosen = [str(job) for job in held[:2]] + [ended["f58id"]]
    assert server.http.post("/jobs/cancel", data={"job": chosen}, headers=PAGE).status_code == 303
    event = eventually(lambda: _chosen(server), what="the event")
    assert event["outcome"] == "done"
    assert event["details"]["jobs"] == [server.job(job)["f58id"] for job in held[:2]]


def test_audit_of_chosen_jobs_with_another_callers_job(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, alice="submit", bob="submit")
    server = own_server(*tokens.options, "--log-format", "json")
    with tokens.client(server, "alice") as alice, tokens.client(server, "bob") as bob:
        own, other = (
            each.post("/v1/jobs/submit", json={"command": "true", "urgency": 0}).json()["f58id"]
            for each in (alice, bob)
        )
        assert alice.post("/jobs/cancel", data={"job": [own, other]}, headers=PAGE).status_code == 403
    event = eventually(lambda: _chosen(server), what="the event")
    assert (event["outcome"], event["caller"], event["details"]["jobs"]) == ("refused", "alice", [own])


def _chosen(server: Server) -> dict[str, Any] | None:
    return next((event for event in audit(server) if event["action"] == "forms_cancel_chosen"), None)
