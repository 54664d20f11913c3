"""Bulk submits of jobs that end at once, each followed by a cancel by filter, while the cores are kept busy.

python -m bench.sweep embedded|flux [ROUNDS [JOBS [HOGS]]]

HOGS processes keep the cores busy; one for each core unless given. Each accepted job must be canceled or have ended
before, and the last accepted ID must be found at once. It prints a line per round, and fails at the first round in
which this does not hold. Responses with 503 are retried, as by clients, and counted: of a list, because the journal
lags behind (``late``), and of lines of the bulk, because Flux has not responded in time (``repeated``). Each line has
an idempotency key: however often it is repeated, it is one job.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from tests.support import harness

_TRIES = 20


def _keep_busy() -> None:
    while True:
        pass


def _listed(server: harness.Server, name: str) -> tuple[dict[str, Any], int]:
    """Return the jobs of a name, and the number of responses that the journal lags behind."""
    for late in range(100):
        answer = server.http.get("/v1/jobs", params={"name": name, "details": "true"})
        if answer.status_code == 200:
            return answer.json(), late
        assert answer.status_code == 503, answer.text
        time.sleep(int(answer.headers["Retry-After"]))
    raise AssertionError(answer.text)


def _submit(server: harness.Server, name: str, jobs: int) -> tuple[list[int], int]:
    """Submit jobs in bulk; return their IDs, and how many lines had to be repeated."""
    ids: dict[int, int] = {}
    repeated = 0
    for _ in range(_TRIES):
        left = [number for number in range(jobs) if number not in ids]
        lines = [{"command": ["true"], "name": name, "idempotency_key": f"{name}-{number}"} for number in left]
        content = b"\n".join(json.dumps(line).encode() for line in lines)
        answer = server.http.post("/v1/jobs/bulk", content=content, headers={"Content-Type": "application/x-ndjson"})
        results = [json.loads(line) for line in answer.text.splitlines()]
        assert len(results) == len(left), len(results)
        assert {result["status"] for result in results} <= {200, 503}, results
        ids |= {number: each["id"] for number, each in zip(left, results, strict=True) if each["status"] == 200}
        if len(ids) == jobs:
            return [ids[number] for number in range(jobs)], repeated
        repeated += jobs - len(ids)
        time.sleep(1)
    raise AssertionError(f"{jobs - len(ids)} lines were refused {_TRIES} times: {results[-1]}")


def _round(server: harness.Server, name: str, jobs: int) -> dict[str, float]:
    begin = time.monotonic()
    ids, repeated = _submit(server, name, jobs)
    submitted = time.monotonic()
    last = server.http.get(f"/v1/jobs/{ids[-1]}")
    found = time.monotonic()
    assert last.status_code == 200, last.text
    cancel = server.http.post("/v1/jobs/cancel", json={"name": name})
    cancelled = time.monotonic()
    assert cancel.status_code == 200, cancel.text
    listed, late = _listed(server, name)
    accepted = set(map(str, ids))
    assert len(accepted) == jobs, f"{jobs - len(accepted)} lines share a job"
    missing, foreign = accepted - listed.keys(), listed.keys() - accepted
    assert listed.keys() == accepted, f"{len(missing)} are missing, {len(foreign)} are of other rounds"
    left = [job for job in listed.values() if job["state"] not in ("INACTIVE", "CLEANUP")]
    assert not left, f"{len(left)} of {jobs} jobs were passed over"
    counts = cancel.json()
    return {
        "bulk_s": round(submitted - begin, 1),
        "last_found_s": round(found - submitted, 3),
        "cancel_s": round(cancelled - found, 1),
        "matched": counts["matched"],
        "cancelled": counts["cancelled"],
        "late": late,
        "repeated": repeated,
    }


def main(kind: str, rounds: int = 20, jobs: int = 10_000, hogs: int = os.cpu_count() or 1) -> None:
    busy = [multiprocessing.Process(target=_keep_busy, daemon=True) for _ in range(hogs)]
    for each in busy:
        each.start()
    with tempfile.TemporaryDirectory() as directory:
        start = harness.flux_start if kind == "flux" else harness.embedded
        server = start(Path(directory), "--no-log-requests", "--no-log-jobs")
        try:
            server.ready().http.timeout = httpx.Timeout(600)
            for number in range(rounds):
                print(
                    json.dumps({"kind": kind, "round": number + 1, **_round(server, f"sweep{number}", jobs)}),
                    flush=True,
                )
        finally:
            server.close()
            for each in busy:
                each.kill()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
