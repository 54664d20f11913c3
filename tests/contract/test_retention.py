"""Jobs that are removed from the store, and a store of an earlier version, in a running server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.contract.test_errors import problem
from tests.support import typical, version4
from tests.support.harness import Server, eventually
from tests.support.metrics import scrape
from tests.support.sse import messages


def test_removed_jobs(own_server: Callable[..., Server]) -> None:
    server = own_server("--keep-jobs", "2")
    key = {"Idempotency-Key": "once"}
    first = server.http.post("/v1/jobs/submit", json={"command": "true"}, headers=key).json()["id"]
    server.ended(first)
    position = server.http.get("/v1/jobs").json()["position"]  # after the events of the first job, before others'
    others = [server.submit("true") for _ in range(4)]
    for job in others:
        server.ended(job)
    eventually(lambda: len(server.http.get("/v1/jobs").json()["jobs"]) == 2, within=60, what="the removal")
    for path in ("", "/events", "/eventlog", "/jobspec", "/output"):
        assert server.http.get(f"/v1/jobs/{first}{path}").status_code == 404
    again = server.http.post("/v1/jobs/submit", json={"command": "true"}, headers=key)
    assert (again.json()["id"], again.headers["Idempotent-Replayed"]) == (first, "true")
    assert scrape(server.http)("flux_sidecar_store_removed_jobs_total", reason="number") == 3
    answer = server.http.get("/v1/events", params={"after": position})
    assert "removed with their jobs" in problem(answer, 410)["detail"]
    kept = others[-1]
    stream = messages(server, "/v1/events", after="0")
    assert next(stream).data["id"] in (first, *others), "the last events are also in memory"
    assert list(messages(server, f"/v1/jobs/{kept}/events"))[-1].data["reason"] == "ended"


def test_store_of_an_earlier_version(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """It is converted; as these are the jobs of another instance, it is then set aside."""
    path = tmp_path / "store" / "jobs.sqlite"
    path.parent.mkdir()
    version4.write(path, typical.history(0, 300))
    server = own_server("--store", str(path))
    assert server.http.get("/v1/jobs").json()["jobs"] == []
    assert "the store is converted" in server.text()
    [aside] = [each for each in path.parent.iterdir() if each.name.endswith(".i.sqlite")]
    assert 0 < aside.stat().st_size < 300 * 2200
    job: Any = server.submit("true")
    server.ended(job)
