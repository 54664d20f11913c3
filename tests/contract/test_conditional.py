"""Conditional reads of jobs and lists: 304 until something has changed, and never too long."""

from __future__ import annotations

import httpx
import pytest

from tests.support.harness import Server, eventually

LISTS = (
    "/v1/jobs",
    "/v1/jobs?limit=100",
    "/v1/jobs?limit=100&details=true",
    "/v1/jobs?limit=100&details=true&listing=true",
    "/v1/jobs/search?query=true&length=10",
)


def tagged(server: Server, path: str, **headers: str) -> httpx.Response:
    answer = server.http.get(path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["ETag"].startswith('W/"')
    return answer


def conditional(server: Server, path: str, tag: str, **headers: str) -> httpx.Response:
    return server.http.get(path, headers={"If-None-Match": tag, **headers})


@pytest.mark.parametrize("path", [*LISTS, "/v1/jobs/{job}"])
def test_unchanged_until_a_command(server: Server, path: str) -> None:
    """A command is visible in the next read, which therefore is not 304."""
    job = server.submit(["true"], urgency=0)
    path = path.format(job=job)
    server.state(job, "SCHED")
    first = tagged(server, path)
    again = conditional(server, path, first.headers["ETag"])
    assert (again.status_code, again.content) == (304, b"")
    for name in ("ETag", "Cache-Control", "Vary", "X-Content-Type-Options"):
        assert again.headers.get(name) == first.headers.get(name)
    assert "Content-Length" not in again.headers
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert server.http.post(f"/v1/jobs/{job}/cancel").status_code == 200
    changed = conditional(server, path, first.headers["ETag"])
    assert changed.status_code == 200
    assert "CANCELED" in changed.text


def test_lists_of_tags(server: Server) -> None:
    job = server.submit(["true"], urgency=0)
    server.state(job, "SCHED")
    for path in (f"/v1/jobs/{job}", "/v1/jobs?limit=1"):
        tag = tagged(server, path).headers["ETag"]
        for known in (f'"other", {tag}', tag.removeprefix("W/"), "*"):
            assert conditional(server, path, known).status_code == 304, known
        for unknown in ('"other"', 'W/"other"', tag.replace("-", "+"), "nonsense"):
            assert conditional(server, path, unknown).status_code == 200, unknown
        assert server.http.head(path, headers={"If-None-Match": tag}).status_code == 304
        assert server.http.head(path).headers["ETag"] == tag


def test_a_tag_is_of_one_answer(server: Server) -> None:
    job = server.submit(["true"], urgency=0)
    server.state(job, "SCHED")
    lines = {"Accept": "application/x-ndjson"}
    tags = [tagged(server, path).headers["ETag"] for path in LISTS]
    tags.append(tagged(server, "/v1/jobs?limit=100", **lines).headers["ETag"])
    assert len(set(tags)) == len(tags)
    assert conditional(server, "/v1/jobs?limit=100", tags[-1]).status_code == 200
    assert conditional(server, "/v1/jobs?limit=100", tags[-1], **lines).status_code == 304


def test_runtimes_have_no_tag(server: Server) -> None:
    """The runtime of a running job grows without an event."""
    job = server.submit(["sleep", "1000"])
    server.state(job, "RUN")
    for path in ("/v1/jobs?limit=10&details=true", "/v1/jobs/search?length=10", f"/v1/jobs/{job}"):
        answer = server.http.get(path)
        assert (answer.status_code, "ETag" in answer.headers) == (200, False), path
        assert '"runtime"' in answer.text
    tag = tagged(server, "/v1/jobs?limit=10").headers["ETag"]  # a brief list shows no runtime
    assert conditional(server, "/v1/jobs?limit=10", tag).status_code == 304
    server.http.post(f"/v1/jobs/{job}/cancel")
    server.ended(job)
    tagged(server, f"/v1/jobs/{job}")


def test_a_wait_ends_with_304(server: Server) -> None:
    """A client that waits for a job learns that nothing has changed meanwhile."""
    job = server.submit(["true"], urgency=0)
    server.state(job, "SCHED")
    tag = tagged(server, f"/v1/jobs/{job}").headers["ETag"]
    assert conditional(server, f"/v1/jobs/{job}?wait=0.05", tag).status_code == 304


def test_another_job_does_not_change_a_job(server: Server) -> None:
    first, second = server.submit(["true"], urgency=0), server.submit(["true"], urgency=0)
    server.state(first, "SCHED")
    page, job = (tagged(server, path).headers["ETag"] for path in ("/v1/jobs?limit=10", f"/v1/jobs/{first}"))
    server.http.post(f"/v1/jobs/{second}/cancel")
    eventually(lambda: conditional(server, "/v1/jobs?limit=10", page).status_code == 200)
    assert conditional(server, f"/v1/jobs/{first}", job).status_code == 304
