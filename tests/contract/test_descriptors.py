"""A server without free file descriptors: it serves requests that need none, and reports its limit for the others."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.contract.test_errors import problem
from tests.support.harness import Server, embedded, eventually


def test_no_free_descriptors(tmp_path: Path, started: Callable[[Any], Server]) -> None:
    server = started(embedded(tmp_path)).ready()
    _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    # One connection that is opened before; the files for a page are read when the server is ready, or soon after.
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/livez").status_code == 200
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (0, most))
        try:
            assert [client.get(path).status_code for path in ("/docs", "/v1/jobs", "/livez", "/openapi.json")] == [
                200
            ] * 4
            eventually(lambda: client.get("/jobs").status_code == 200, what="a page")
            refused = client.get("/static/pages.js")
            assert "ulimit -n" in problem(refused, 503)["detail"]
            assert refused.headers["Retry-After"]
            job = client.post("/v1/jobs/submit", json={"command": "true"}).json()["id"]
            ended = eventually(lambda: _ended(client, job), what="the end of the job")
            assert "Too many open files" in ended["exception"]["note"]
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
    assert server.run("true")["returncode"] == 0
    assert "a background task has died" not in server.text()
    assert "Traceback" not in server.text()


def _ended(client: httpx.Client, job: int) -> dict[str, Any] | None:
    found: dict[str, Any] = client.get(f"/v1/jobs/{job}").json()
    return found if found["state"] == "INACTIVE" else None
