"""Read your writes: each read after the response to a command includes the command's effect."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.support.harness import Server, eventually

Start = Callable[..., Server]
JOBS = int(os.environ.get("TEST_BULK_JOBS", "1500"))
ROUNDS = int(os.environ.get("TEST_BULK_ROUNDS", "1"))


def _bulk(server: Server, number: int, **request: Any) -> list[int]:
    lines = b"\n".join([json.dumps({"command": ["true"], **request}).encode()] * number)
    answer = server.http.post("/v1/jobs/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result["status"] for result in results] == [200] * number, results[-1]
    return [result["id"] for result in results]


@pytest.mark.timeout(60 + ROUNDS * JOBS / 10)
def test_bulk_and_cancel_by_filter(own_server: Start, record_property: Callable[[str, object], None]) -> None:
    """Every accepted job is cancelled or has ended before, and the last one is in the list at once."""
    server = own_server()
    server.http.timeout = httpx.Timeout(120)
    for round_ in range(ROUNDS):
        name = f"sweep{round_}"
        ids = _bulk(server, JOBS, name=name)
        assert server.http.get(f"/v1/jobs/{ids[-1]}").status_code == 200
        answer = server.http.post("/v1/jobs/cancel", json={"name": name})
        assert answer.status_code == 200, answer.text
        counts = answer.json()
        states = server.http.get("/v1/jobs", params={"name": name, "details": "true"}).json()
        assert states.keys() >= {str(job) for job in ids}, "every accepted job is in the list"
        left = [job for job in states.values() if job["state"] not in ("INACTIVE", "CLEANUP")]
        assert not left, f"{len(left)} of {len(ids)} jobs were passed over by {counts}"
        record_property(f"round {round_}", counts)
        assert counts["matched"] == counts["cancelled"] + counts["already_ended"]
        assert (counts["failed_total"], counts["failed"]) == (0, []), "a job that ends meanwhile is not a failure"
        print(round_, counts["matched"], counts["cancelled"], counts["already_ended"])


def test_each_read_sees_each_command(own_server: Start) -> None:
    """Submit, urgency, cancel and signal, each followed by a read of each kind, while others submit all the time."""
    server = own_server()
    stop = threading.Event()

    def load() -> None:
        with httpx.Client(base_url=server.url, timeout=60) as http:
            while not stop.is_set():
                http.post("/v1/jobs/submit", json={"command": "true"})

    others = [threading.Thread(target=load) for _ in range(4)]
    for each in others:
        each.start()
    try:
        for number in range(25):
            name = f"mine{number}"
            job = server.submit("sleep 60", name=name, urgency=0)
            assert server.job(job)["name"] == name
            assert [each["id"] for each in _named(server, name)] == [job]
            assert server.http.get("/v1/jobs/search", params={"query": name}).json()["recordsMatched"] >= 1
            assert server.http.post(f"/v1/jobs/{job}/urgency", json={"urgency": 0}).status_code == 200
            entries = server.http.get(f"/v1/jobs/{job}/eventlog").json()["events"]
            assert [entry["name"] for entry in entries].count("urgency") == 1
            cancel = server.http.post("/v1/jobs/cancel", json={"name": name})
            assert cancel.json()["cancelled"] == 1
            assert [each["state"] for each in _named(server, name)] in (["CLEANUP"], ["INACTIVE"])
            assert server.job(job)["state"] in ("CLEANUP", "INACTIVE")
    finally:
        stop.set()
        for each in others:
            each.join()


def _named(server: Server, name: str) -> list[dict[str, Any]]:
    return list(server.http.get("/v1/jobs", params={"name": name}).json()["jobs"])


def test_large_jobs_neither_delay_reads_nor_fill_the_memory(own_server: Start) -> None:
    """Names, commands and records are limited in bytes wherever they are kept."""
    server = own_server()
    before = server.memory
    large = json.dumps({"command": ["true", "x" * 60_000], "name": "y" * 1000, "urgency": 0}).encode()
    huge = json.dumps({"command": ["true", "z" * 900_000], "urgency": 0}).encode()
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.url, timeout=100) as other:
        lines = b"\n".join([large] * 100 + [huge] * 20)
        bulk = pool.submit(other.post, "/v1/jobs/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
        reads = 0
        while not bulk.done() or not reads:
            answer = server.http.post("/v1/jobs/submit", json={"command": "sleep 60", "urgency": 0})
            if answer.status_code == 503:  # Flux itself is slow with large jobs
                continue
            assert server.http.get(f"/v1/jobs/{answer.json()['id']}").status_code == 200
            reads += 1
        results = [json.loads(line) for line in bulk.result().text.splitlines()]
    assert [each["status"] for each in results] == [200] * 120
    assert server.http.get(f"/v1/jobs/{results[-1]['id']}").status_code == 200
    assert len(server.http.get("/v1/jobs", params={"limit": 100}).text) < 2_000_000, "lists truncate names"
    assert len(server.http.get("/v1/jobs", params={"details": "true"}).json()) >= 120 + reads
    assert server.memory - before < 400 * 1024 * 1024


def test_service_counts_accepted_jobs(own_server: Start) -> None:
    """A caller that decides on a stop sees each job that it would end, and each that a drain waits for."""
    server = own_server()
    for number in range(1, 31):
        job = server.submit("true", urgency=0)
        found = server.http.get("/v1/service").json()
        assert (found["active_jobs"], found["held_jobs"]) == (number, number)
    server.submit("true", urgency=0)
    assert "<strong>31</strong> jobs have not ended" in " ".join(server.http.get("/stop").text.split())
    server.http.post(f"/v1/jobs/{job}/urgency", json={"urgency": 16})
    assert server.http.get("/v1/service").json()["held_jobs"] == 30
    server.submit("true", urgency=0)
    assert server.stop(mode="drain").json()["active_jobs"] >= 31


def test_drain_waits_for_accepted_jobs(own_server: Start, tmp_path: Path) -> None:
    server = own_server()
    done = tmp_path / "done"
    for number in range(20):
        server.submit(["sh", "-c", f"echo {number} >> {done}"])
    assert server.stop(mode="drain").status_code == 202
    assert server.wait(60) == 0
    assert sorted(map(int, done.read_text().split())) == list(range(20))


def test_reads_fail_rather_than_miss_a_write(own_server: Start, tmp_path: Path) -> None:
    """While the store cannot be written, a read that depends on it is 503 with the lag."""
    path = tmp_path / "kept" / "jobs.sqlite"
    server = own_server("--store", str(path))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    job = server.submit("true")
    for read in (f"/v1/jobs/{job}", "/v1/jobs", f"/v1/jobs/{job}/eventlog"):
        answer = server.http.get(read)
        assert problem(answer, 503)["lag"] > 0
        assert int(answer.headers["Retry-After"]) >= 1
    other.execute("ROLLBACK")
    other.close()
    eventually(lambda: server.http.get(f"/v1/jobs/{job}").status_code == 200, what="the job, once it is stored")
