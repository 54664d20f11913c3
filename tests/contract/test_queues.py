"""Queues: status, counts, start and stop, with both engines. Named queues are tested in tests/flux."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.support.harness import Server, eventually
from tests.support.sse import connect

NONE = {"new": 0, "depend": 0, "priority": 0, "sched": 0, "run": 0, "cleanup": 0}


def queue(server: Server) -> dict[str, Any]:
    (found,) = server.http.get("/v1/queues").json()["queues"]
    return dict(found)


def counts(server: Server) -> dict[str, int]:
    return {state: count for state, count in queue(server)["counts"].items() if count}


def test_anonymous_queue_is_called_default(own_server: Callable[..., Server]) -> None:
    server = own_server()
    body = server.http.get("/v1/queues").json()
    assert body["updated"] == pytest.approx(time.time(), abs=10)
    (found,) = body["queues"]
    assert found == {
        "name": "default",
        "enabled": True,
        "enabled_reason": "",
        "started": True,
        "started_reason": "",
        "default": True,
        "counts": NONE,
    }


def test_name_of_the_default_queue_is_accepted(server: Server) -> None:
    """In submits, checks and filters; as in Flux, the job itself has no queue."""
    position = server.position()
    held: dict[str, Any] = {"command": "true", "queue": "default", "urgency": 0, "name": "by-its-name"}
    assert server.http.post("/v1/jobs/submit", json={**held, "dry_run": True}).status_code == 200
    lines = "".join(json.dumps(held) + "\n" for _ in range(2))
    jobs = [json.loads(line)["id"] for line in server.http.post("/v1/jobs/bulk", content=lines).text.splitlines()]
    jobs.append(server.submit(**held))
    jobs.append(server.http.post("/v1/jobs/submit", data={**held, "urgency": "0"}).json()["id"])
    for each in jobs:
        assert server.job(each)["queue"] == ""
    which = {"queue": "default", "name": "by-its-name"}
    assert {job["id"] for job in server.http.get("/v1/jobs", params=which).json()["jobs"]} == set(jobs)
    assert server.http.get("/v1/jobs", params={**which, "queue": "other"}).json()["jobs"] == []
    assert "by-its-name" in server.http.get("/jobs", params={"queue": "default"}).text
    answer = server.http.post("/v1/jobs/cancel", json=which).json()
    assert (answer["matched"], answer["cancelled"]) == (4, 4)
    with connect(server.url, f"/v1/events?after={position}&queue=default&result=canceled") as stream:
        found: set[int] = set()
        for message in stream:
            found.add(message.data["id"])
            if found >= set(jobs):
                break
    detail = problem(server.http.post("/v1/jobs/submit", json={**held, "queue": "other"}), 400)["detail"]
    assert "queue" in detail


def test_stopped_queue_starts_no_jobs(own_server: Callable[..., Server]) -> None:
    server = own_server()
    running = server.submit("sleep 600")
    server.state(running, "RUN")
    answer = server.http.post("/v1/queues/default/stop", json={"reason": "power cut at noon"})
    assert answer.status_code == 200, answer.text
    stopped = answer.json()
    assert (stopped["name"], stopped["started"], stopped["started_reason"]) == ("default", False, "power cut at noon")
    assert stopped["counts"] == {**NONE, "run": 1}
    waiting = server.submit("true")
    server.state(waiting, "SCHED")
    eventually(lambda: counts(server) == {"run": 1, "sched": 1}, what="counts")
    server.http.post(f"/v1/jobs/{running}/cancel")
    assert server.ended(running)["result"] == "CANCELED"
    assert server.job(waiting)["state"] == "SCHED"
    assert (queue(server)["started"], queue(server)["started_reason"]) == (False, "power cut at noon")
    # Stopped without a reason.
    assert server.http.post("/v1/queues/default/stop").json()["started_reason"] == ""
    answer = server.http.post("/v1/queues/default/start")
    assert (answer.status_code, answer.json()["started"]) == (200, True)
    assert server.ended(waiting)["result"] == "COMPLETED"
    eventually(lambda: queue(server)["counts"] == NONE, what="no active job")


def test_drain_disables_the_queue(own_server: Callable[..., Server]) -> None:
    server = own_server()
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    server.stop(mode="drain")
    eventually(lambda: not queue(server)["enabled"], what="a disabled queue")
    assert queue(server)["enabled_reason"] == "the instance is draining"
    assert server.http.post(f"/v1/jobs/{held}/urgency", json={"urgency": "default"}).status_code == 200
    assert server.wait() == 0


@pytest.mark.parametrize("verb", ["start", "stop"])
@pytest.mark.parametrize("name", ["debug", "Default", "%00", "ƒ"])
def test_unknown_queues(server: Server, verb: str, name: str) -> None:
    body = problem(server.http.post(f"/v1/queues/{name}/{verb}"), 404)
    assert "There is no queue" in body["detail"]
    assert "the queues are: default." in body["detail"]


@pytest.mark.parametrize(("verb", "body", "text"), [
    ("stop", {"reason": "x" * 1001}, "reason: expected text of at most 1000 characters"),
    ("stop", {"reason": 5}, "reason: expected text"),
    ("stop", {"cause": "x"}, "'cause' is not a parameter here"),
    ("start", {"reason": "x"}, "'reason' is not a parameter here"),
])  # fmt: skip
def test_invalid_parameters_change_nothing(server: Server, verb: str, body: dict[str, Any], text: str) -> None:
    assert text in problem(server.http.post(f"/v1/queues/default/{verb}", json=body), 400)["detail"]
    assert queue(server)["started"]
