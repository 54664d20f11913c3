"""Pages and their forms as programs see them: their errors, and what is sent to them by nobody's browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.harness import Server

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
def test_what_is_asked_for(server: Server, path: str, status: int) -> None:
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
def test_what_is_sent(server: Server, path: str, sent: dict[str, Any], status: int) -> None:
    headers = {**PAGE, **sent.pop("headers", {})} if "headers" in sent else PAGE
    answer = server.http.post(path, headers=headers, **sent)
    assert answer.status_code == status, answer.text
    if status == 303:
        assert answer.headers["Location"].startswith("../jobs")
        assert "elsewhere" not in answer.headers["Location"]
    assert "a request failed" not in server.text()


def test_a_page_of_another_site_can_do_nothing(server: Server) -> None:
    for path in ("/jobs/submit", "/jobs/cancel", "/stop"):
        answer = server.http.post(
            path,
            data={"command": "true"},
            headers={**PAGE, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        )
        assert answer.status_code == 403


def test_a_job_is_submitted_once_by_a_form(own_server: Callable[..., Server]) -> None:
    server = own_server()
    answer = server.http.post("/jobs/submit", data={"command": "echo hi", "name": "n", "num_tasks": ""}, headers=PAGE)
    assert answer.status_code == 303
    job = answer.headers["Location"].rsplit("/", 1)[1]
    assert server.ended(job)["name"] == "n"
    assert server.http.get(f"/jobs/{job}/output").text == "hi\n"
