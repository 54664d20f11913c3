"""Probes report failures at once, even if the checked component hangs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.contract.test_errors import problem
from tests.support import harness
from tests.support.harness import Server, eventually
from tests.support.metrics import scrape

CHECKS = ["events", "flux", "tasks", "instance", "journal", "stored", "lag", "service", "store", "disk"]


def test_checks_with_their_age(server: Server) -> None:
    answer = server.http.get("/readyz?verbose")
    *lines, last = answer.text.splitlines()
    assert last == "readyz check passed"
    assert [line.split("]")[1].split()[0] for line in lines] == CHECKS
    assert all(line.startswith("[+]") and " s ago" in line for line in lines)
    assert server.http.get("/livez?verbose").text.splitlines()[-1] == "livez check passed"
    assert server.http.get("/readyz").text == "ok\n"


def test_full_disk(tmp_path: Path, started: Callable[[Any], Any]) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize >> 20
    server = started(harness.embedded(tmp_path, "--min-free-disk", str(2 * free)))

    def failed() -> list[str]:
        answer = server.http.get("/readyz?verbose")
        lines = problem(answer, 503)["Errors"] if answer.status_code != 200 else answer.text.splitlines()
        return [line for line in lines if line.startswith("[-]")]

    # The server may still be starting at the first request; then other checks fail as well.
    eventually(
        lambda: [line.split()[0] for line in failed()] == ["[-]disk"], what="the full disk as the only failed check"
    )
    assert "--min-free-disk" in problem(server.http.get("/readyz"), 503)["detail"]
    assert server.http.get("/livez").status_code == 200
    assert scrape(server.http)("flux_sidecar_health_check", check="disk") == 0
    assert scrape(server.http)("flux_sidecar_ready") == 0


def test_store_that_hangs(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """Another process locks the file for longer than the write timeout: the check fails, and probes do not wait."""
    path = tmp_path / "store" / "jobs.sqlite"
    server = own_server("--store", str(path))

    def failed_check() -> httpx.Response:
        return server.http.get("/readyz?verbose")

    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        answer = eventually(
            lambda: (found := failed_check()).status_code == 503 and found, what="the failed check of the store"
        )
        failed = [line for line in problem(answer, 503)["Errors"] if line.startswith("[-]")]
        assert any(line.startswith("[-]store failed") and "locked" in line for line in failed), failed
        times = []
        for _ in range(100):
            begin = time.perf_counter()
            assert failed_check().status_code == 503
            assert server.http.get("/livez").status_code == 200
            times.append((time.perf_counter() - begin) / 2)
        assert min(times) < 0.005  # the time of an undisturbed probe
        # Reads continue, and a request that waits for a write gets the reason.
        assert server.http.get("/v1/jobs").status_code == 200
    eventually(lambda: failed_check().status_code == 200, what="the recovered store")
    assert server.run("true")["result"] == "COMPLETED"


def test_stop_ends_readiness_but_not_liveness(own_server: Callable[..., Server]) -> None:
    server = own_server()
    job = server.submit("sleep 60")
    server.state(job, "RUN")
    assert server.stop(mode="drain").status_code == 202
    failed = [line for line in problem(server.http.get("/readyz?verbose"), 503)["Errors"] if line.startswith("[-]")]
    assert len(failed) == 1
    assert "[-]service failed" in failed[0]
    assert "The service is draining." in failed[0]
    assert server.http.get("/livez").status_code == 200
