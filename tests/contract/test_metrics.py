"""Metrics: correct, complete from the start, protected, cheap, and bounded in number."""

from __future__ import annotations

import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.telemetry import metrics
from tests.contract.test_errors import problem
from tests.support import harness
from tests.support.access import TokenFile
from tests.support.harness import Server, eventually
from tests.support.metrics import Metrics, scrape
from tests.support.sse import Stream, ask

NONE = dict.fromkeys(metrics.JOB_RESULTS, 0.0)


def quiet(server: Server) -> Metrics:
    """Return the metrics once no job is active, and the nodes have been polled since."""

    def settled() -> Metrics | None:
        found = scrape(server.http)
        active = sum(found.by("state", "flux_jobs").values()) - found.by("state", "flux_jobs")["inactive"]
        return found if not active and not found("flux_cores", state="allocated") else None

    return eventually(settled, what="no job active")


def test_enumerations_are_complete_from_the_start(own_server: Callable[..., Server]) -> None:
    server = own_server()
    found = scrape(server.http)
    # With one queue, each value has one series.
    assert set(found.by("state", "flux_jobs")) == set(metrics.JOB_STATES)
    assert found.by("result", "flux_job_results_total") == NONE
    assert found.by("result", "flux_job_run_seconds_count") == NONE
    assert set(found.by("state", "flux_nodes")) == set(metrics.NODE_STATES)
    assert set(found.by("type", "flux_job_exceptions_total")) == set(metrics.EXCEPTIONS)
    assert set(found.by("reason", "flux_sidecar_auth_failures_total")) == set(metrics.REFUSALS)
    assert set(found.by("reason", "flux_sidecar_stream_readers_dropped_total")) == set(metrics.DROPS)
    assert set(found.by("state", "flux_sidecar_service_state")) == set(metrics.SERVICE_STATES)
    assert found("flux_job_wait_seconds_count", queue="default") == 0
    before = found.series("flux_job")
    server.run("true")
    server.run("false")
    assert quiet(server).series("flux_job") == before


def test_exposition_matches_the_table(server: Server) -> None:
    server.run("true")
    found = scrape(server.http, openmetrics=True)
    exposed = {family.name: family for family in found.families if family.name.startswith("flux_")}
    table = {metric.family: metric for metric in metrics.TABLE if metric.part != "users"}
    assert set(exposed) == set(table)
    for name, metric in table.items():
        family = exposed[name]
        assert (family.type, family.documentation) == (metric.kind, metric.help), name
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(metric.labels), sample
        bounds = {float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels}
        assert bounds in (set(), {*metric.buckets, float("inf")}), name
    assert "process_resident_memory_bytes" in found.text
    assert "python_info" in found.text


def test_counts_of_jobs(own_server: Callable[..., Server]) -> None:
    server = own_server()
    for command, parameters in (("true", {}), ("true", {}), ("false", {}), ("sleep 60", {"runtime": 1})):
        server.run(command, **parameters)
    canceled = server.submit("sleep 60")
    server.state(canceled, "RUN")
    assert server.http.post(f"/v1/jobs/{canceled}/cancel").status_code == 200
    server.ended(canceled)
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")

    def counted() -> Metrics | None:
        found = scrape(server.http)
        return found if found("flux_jobs_held", queue="default") == 1 else None

    found = eventually(counted, what="the held job counted")
    assert found.by("result", "flux_job_results_total") == {
        "completed": 2, "failed": 1, "canceled": 1, "timeout": 1,
    }  # fmt: skip
    assert found.by("state", "flux_jobs") == dict.fromkeys(metrics.JOB_STATES, 0.0) | {"inactive": 5.0, "sched": 1.0}
    assert found("flux_job_submits_total", queue="default") == 6
    assert found("flux_job_exceptions_total", type="cancel", severity="fatal") == 1
    assert found("flux_job_exceptions_total", type="timeout", severity="fatal") == 1
    # A held job waits for no nodes: an autoscaler must not count it.
    assert found("flux_pending_nodes_max", queue="default") == 0
    assert found("flux_job_wait_seconds_count", queue="default") == 5
    assert found("flux_job_scheduling_seconds_count", queue="default") == 5
    assert found("flux_job_cleanup_seconds_count", queue="default") == 5
    timed_out = found("flux_job_run_seconds_sum", queue="default", result="timeout")
    assert timed_out >= 0.9
    jobs = server.http.get("/v1/jobs", params={"details": "true", "listing": "true"}).json()
    waited = sum(job["t_run"] - job["t_submit"] for job in jobs if "t_run" in job)
    assert found("flux_job_wait_seconds_sum", queue="default") == pytest.approx(waited)


def test_pending_job_and_allocated_node(own_server: Callable[..., Server]) -> None:
    server = own_server()
    cores = server.http.get("/v1/nodes", params={"details": "true"}).json()["nodes"][0]["cores"]
    first = server.submit("sleep 60", cores_per_task=cores)
    server.state(first, "RUN")
    second = server.submit("sleep 60", cores_per_task=cores)
    server.state(second, "SCHED")

    def allocated() -> Metrics | None:
        found = scrape(server.http)
        return found if found("flux_cores", state="allocated") == cores else None

    found = eventually(allocated, what="the cores in use")
    assert found("flux_pending_nodes_max", queue="default") == 1
    assert found("flux_allocated_rank_max") == 0
    assert found.by("state", "flux_nodes") == {"allocated": 1, "free": 0, "drained": 0, "down": 0}
    assert server.http.post("/v1/jobs/cancel", json={"name": "sleep"}).status_code == 200
    found = quiet(server)
    assert found("flux_pending_nodes_max", queue="default") == 0
    assert found("flux_allocated_rank_max") == -1
    assert found.by("state", "flux_nodes") == {"allocated": 0, "free": 1, "drained": 0, "down": 0}


def test_labels_do_not_contain_input(own_server: Callable[..., Server]) -> None:
    server = own_server()
    job = server.submit("true", name="a-name-of-mine")
    server.ended(job)
    for path in (f"/v1/jobs/{job}", "/v1/jobs/ƒ1", "/no/such/path", "/another", "/static/nothing"):
        server.http.get(path)
    server.http.request("DELETE", "/v1/jobs")
    found = scrape(server.http)
    assert str(job) not in found.text
    assert "a-name-of-mine" not in found.text
    assert found.by("method", "flux_sidecar_http_requests_total", route="none") == {"GET": 3, "other": 1}
    by_route = found.by("route", "flux_sidecar_http_requests_total")
    assert by_route["/v1/jobs/{uid}"] >= 3
    assert by_route["none"] == 4
    assert found("flux_sidecar_http_requests_total", method="GET", route="/v1/jobs/{uid}", code="404") == 1
    assert (
        found("flux_sidecar_http_request_duration_seconds_count", method="GET", route="/v1/jobs/{uid}")
        == (by_route["/v1/jobs/{uid}"])
    )
    # Only the scrape itself is in progress.
    assert found("flux_sidecar_http_requests_in_flight") == 1


def test_open_streams_are_counted(own_server: Callable[..., Server]) -> None:
    server = own_server()
    with Stream(ask(server.url, "/v1/events")):
        eventually(
            lambda: scrape(server.http).by("route", "flux_sidecar_streams") == {"/v1/events": 1}, what="one stream"
        )
    eventually(lambda: scrape(server.http).by("route", "flux_sidecar_streams") == {"/v1/events": 0}, what="no stream")
    found = scrape(server.http)
    assert "/v1/events" in found.by("route", "flux_sidecar_http_requests_total")
    assert "/v1/events" not in found.by("route", "flux_sidecar_http_request_duration_seconds_count")


def test_single_family(server: Server) -> None:
    parameters: dict[str, Any] = {"name[]": "flux_jobs"}
    found = scrape(server.http, **parameters)
    assert {family.name for family in found.families} == {"flux_jobs"}


@pytest.mark.prometheus
def test_promtool_accepts_the_exposition(own_server: Callable[..., Server]) -> None:
    server = own_server("--metrics-users")
    server.run("true")
    for path in ("/metrics", "/metrics/users"):
        text = scrape(server.http, path).text
        checked = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True)
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_credentials_for_metrics(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, scraper="read")
    server = own_server(*tokens.options)
    with httpx.Client(base_url=server.url) as anonymous, tokens.client(server, "scraper") as scraper:
        for path in ("/metrics", "/metrics/users"):
            problem(anonymous.get(path), 401)
        found = scrape(scraper)
        assert found("flux_sidecar_auth_failures_total", reason="unauthenticated") == 2
        problem(scraper.get("/metrics/users"), 404)


def test_metrics_without_auth(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, scraper="read")
    server = own_server(*tokens.options, "--metrics-open")
    with httpx.Client(base_url=server.url) as anonymous:
        assert scrape(anonymous)("flux_instance_up") == 1
        problem(anonymous.get("/v1/jobs"), 401)


def test_metrics_port(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, scraper="read")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = own_server(*tokens.options, "--metrics-port", str(port))
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as anonymous,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=tokens.headers("scraper")) as scraper,
        tokens.client(server, "scraper") as api,
    ):
        assert scrape(scraper)("flux_instance_up") == 1
        assert anonymous.get("/readyz").status_code == 200
        assert anonymous.get("/livez").status_code == 200
        problem(anonymous.get("/metrics"), 401)
        problem(scraper.get("/v1/jobs"), 404)
        problem(api.get("/metrics"), 404)
        assert api.get("/v1/jobs").status_code == 200


def test_user_metrics_are_separate(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, alice="submit", bob="submit", admin="admin")
    server = own_server(*tokens.options, "--metrics-users")
    with tokens.client(server, "alice") as alice, tokens.client(server, "bob") as bob:
        for client, number in ((alice, 2), (bob, 1)):
            for _ in range(number):
                assert client.post("/v1/jobs/submit", json={"command": "true"}).status_code == 200

        def reported() -> bool:
            found = scrape(alice, "/metrics/users")
            return found.by("user", "flux_user_jobs", state="inactive") == {"alice": 2, "bob": 1}

        eventually(reported, what="the jobs of each user")
        assert set(scrape(alice, "/metrics/users").by("state", "flux_user_jobs")) == set(metrics.JOB_STATES)
        assert "alice" not in scrape(alice).text


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_counters_survive_the_server(tmp_path: Path, started: Callable[[Any], Any], number: int) -> None:
    """Running jobs of the embedded engine end with it; jobs counted before are not counted again."""
    options = ("--store", str(tmp_path / "jobs.sqlite"))
    server = started(harness.embedded(tmp_path / "first", *options)).ready()
    server.run("true")
    server.run("false")
    before = quiet(server)
    server.signal(number)
    server.wait()
    after = scrape(started(harness.embedded(tmp_path / "second", *options)).ready().http)
    for name in ("flux_job_results_total", "flux_job_submits_total", "flux_jobs", "flux_job_run_seconds_sum"):
        label = {"flux_job_submits_total": "queue", "flux_jobs": "state"}.get(name, "result")
        assert before.by(label, name) == after.by(label, name), name
    assert after("flux_job_submits_total", queue="default") == 2


def test_scrape_sends_no_rpc(own_server: Callable[..., Server]) -> None:
    server = own_server()
    server.run("true")
    quiet(server)

    def rpcs() -> float:
        return sum(scrape(server.http).by("topic", "flux_sidecar_rpc_duration_seconds_count").values())

    # Periodic polls send some RPCs: far fewer than there are scrapes.
    parameters: dict[str, Any] = {"name[]": "flux_nodes"}
    before = rpcs()
    for _ in range(200):
        scrape(server.http, **parameters)
    assert rpcs() - before < 30
