"""Bulk submits of jobs that end at once, each followed by a cancel by filter, while the cores are kept busy.

    python -m bench.sweep embedded|flux [ROUNDS [JOBS [HOGS]]]

HOGS processes keep the cores busy; one for each core unless given. Each accepted job has to be cancelled or to have
ended before, and the last accepted ID has to be found at once. A line a round, and a failure at the first one that is
not so. A list that is answered with 503 and Retry-After, because the journal lags behind, is asked for again and
counted (``late``).
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

from tests import harness


def _keep_busy() -> None:
    while True:
        pass


def _listed(server: harness.Server, name: str) -> tuple[dict[str, Any], int]:
    """Return the jobs of a name, and how many times the answer was that the journal lags behind."""
    for late in range(100):
        answer = server.http.get("/v1/jobs", params={"name": name, "details": "true"})
        if answer.status_code == 200:
            return answer.json(), late
        assert answer.status_code == 503, answer.text
        time.sleep(int(answer.headers["Retry-After"]))
    raise AssertionError(answer.text)


def _round(server: harness.Server, name: str, jobs: int) -> dict[str, float]:
    lines = b"\n".join([json.dumps({"command": ["true"], "name": name}).encode()] * jobs)
    begin = time.monotonic()
    answer = server.http.post("/v1/jobs/bulk", content=lines, headers={"Content-Type": "application/x-ndjson"})
    results = [json.loads(line) for line in answer.text.splitlines()]
    submitted = time.monotonic()
    refused = [result for result in results if result["status"] != 200]
    assert len(results) == jobs, len(results)
    assert not refused, (len(refused), refused[0])
    last = server.http.get(f"/v1/jobs/{results[-1]['id']}")
    found = time.monotonic()
    assert last.status_code == 200, last.text
    cancel = server.http.post("/v1/jobs/cancel", json={"name": name})
    cancelled = time.monotonic()
    assert cancel.status_code == 200, cancel.text
    listed, late = _listed(server, name)
    accepted = {str(result["id"]) for result in results}
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
