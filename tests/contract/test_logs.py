"""The log: one line for each request and each change of a job, IDs that connect them, and tracing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.access import TokenFile
from tests.support.collector import Collector
from tests.support.harness import Server, eventually
from tests.support.sse import Stream, ask

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


def lines(server: Server, event: str) -> list[dict[str, Any]]:
    """Return the lines with one event, of a server that logs JSON."""
    found = [json.loads(line) for line in server.text().splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def line_with(server: Server, event: str, **fields: Any) -> dict[str, Any]:
    """Wait for the line that has the given fields, and return it."""

    def written() -> list[dict[str, Any]]:
        return [line for line in lines(server, event) if fields.items() <= line.items()]

    (found,) = eventually(written, what=f"a line {event} {fields}")
    return found


def test_line_for_each_request(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, alice="submit")
    server = own_server(*tokens.options, "--log-format", "json")
    with tokens.client(server, "alice") as alice:
        answer = alice.get("/v1/jobs?limit=7", headers={"X-Request-Id": "mine-1"})
        line = line_with(server, "request", request_id="mine-1")
        assert line["level"] == "info"
        assert (line["method"], line["route"], line["path"], line["status"]) == ("GET", "/v1/jobs", "/v1/jobs", 200)
        assert line["bytes"] == len(answer.content)
        assert line["caller"] == "alice"
        assert line["address"] == "127.0.0.1"
        assert 0 < line["seconds"] < 30
        job = alice.post("/v1/jobs/submit", json={"command": "true"}, headers={"X-Request-Id": "mine-2"}).json()["id"]
        alice.get(f"/v1/jobs/{job}/output", headers={"X-Request-Id": "mine-3"})
        line = line_with(server, "request", request_id="mine-3")
        assert (line["route"], line["path"]) == ("/v1/jobs/{uid}/output", f"/v1/jobs/{job}/output")
        # The audit event of the same request has the same ID.
        assert line_with(server, "audit", request_id="mine-2")["action"] == "jobs_submit"
    with httpx.Client(base_url=server.url) as anonymous:
        anonymous.get("/v1/jobs?token=a-secret", headers={"X-Request-Id": "mine-4"})
        anonymous.get("/no/such", headers={"X-Request-Id": "mine-5"})
    assert line_with(server, "request", request_id="mine-4")["status"] == 401
    assert line_with(server, "request", request_id="mine-5")["route"] == ""
    assert "a-secret" not in server.text()


def test_successful_probes_and_scrapes_are_not_logged(own_server: Callable[..., Server]) -> None:
    server = own_server("--log-format", "json")
    for path in ("/livez", "/readyz", "/readyz?verbose", "/metrics"):
        assert server.http.get(path).status_code == 200
    assert server.http.get("/readyz?nonsense=1", headers={"X-Request-Id": "wrong"}).status_code == 400
    line_with(server, "request", request_id="wrong")
    # Probes before readiness have failed, so they are logged.
    assert all(line["status"] >= 400 for line in lines(server, "request"))


def test_stream_is_logged_at_its_end(own_server: Callable[..., Server]) -> None:
    server = own_server("--log-format", "json")
    with Stream(ask(server.url, "/v1/events", X_Request_Id="stream-1")):
        assert server.http.get("/v1/jobs").status_code == 200
        assert not [line for line in lines(server, "request") if line["request_id"] == "stream-1"]
    assert line_with(server, "request", request_id="stream-1")["route"] == "/v1/events"


def test_line_for_each_change_of_a_job(own_server: Callable[..., Server]) -> None:
    server = own_server("--log-format", "json")
    good, bad = server.run("true"), server.run("false")
    for job, result, code in ((good, "COMPLETED", 0), (bad, "FAILED", 1)):
        line = line_with(server, "job", job=job["f58id"], state="INACTIVE")
        assert (line["result"], line["returncode"], line["queue"]) == (result, code, "default")
        of_job = [line for line in lines(server, "job") if line["job"] == job["f58id"]]
        assert of_job[0]["was"] == ""
        assert [line["was"] for line in of_job[1:]] == [line["state"] for line in of_job[:-1]]


def test_log_level_suppresses_lines(own_server: Callable[..., Server]) -> None:
    server = own_server("--log-format", "json", "--no-log-requests", "--no-log-jobs")
    server.run("true")
    assert not lines(server, "request")
    assert not lines(server, "job")
    assert lines(server, "audit")


def test_input_cannot_start_a_line(own_server: Callable[..., Server]) -> None:
    """Also in the text format, where it would look like a line of the server."""
    server = own_server("--log-format", "console")
    forged = "2026-01-01T00:00:00Z [info     ] stop"
    server.http.get(f"/v1/jobs/%0A{forged}%0A")
    server.http.post("/v1/service/stop", json={"mode": "drain", "reason": f"x\n{forged}\n\x1b[2J"})
    server.wait()
    assert not [line for line in server.text().splitlines() if line.startswith(forged)]
    assert "\x1b" not in server.text()
    assert re.search(r"\[info +\] request +method=GET", server.text())


@pytest.mark.parametrize(
    ("given", "trace"),
    [
        (TRACEPARENT, TRACE),
        (f"01-{TRACE}-{SPAN}-01-what-a-later-version-adds", TRACE),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        ("nonsense", None),
    ],
)
def test_trace_of_a_caller(server: Server, given: str, trace: str | None) -> None:
    """It is in every line of the request; an invalid traceparent is ignored."""
    name = f"trace-{abs(hash(given))}"
    server.http.get("/v1/jobs", headers={"traceparent": given, "X-Request-Id": name})

    def line() -> str:
        return next((line for line in server.text().splitlines() if f"request_id={name}" in line), "")

    written = eventually(line, what="the line")
    assert ("trace_id=" in written) == (trace is not None)
    if trace:
        assert f"trace_id={trace}" in written
        assert f"span_id={SPAN}" in written


def test_spans(own_server: Callable[..., Server]) -> None:
    with Collector() as collector:
        server = own_server("--log-format", "json", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        kind = server.http.get("/v1/service").json()["instance"]["kind"]
        answer = server.http.post(
            "/v1/jobs/submit", json={"command": "true"}, headers={"traceparent": TRACEPARENT, "X-Request-Id": "traced"}
        )
        assert answer.status_code == 200
        assert server.http.get("/v1/jobs/f1").status_code == 404
        (span,) = eventually(lambda: collector.named("POST /v1/jobs/submit"), what="the span")
        assert (span.trace_id, span.parent_id, span.service) == (TRACE, SPAN, "flux-sidecar")
        assert span.attributes["http.request.method"] == "POST"
        assert span.attributes["http.route"] == "/v1/jobs/submit"
        assert span.attributes["http.response.status_code"] == 200
        if kind == "flux":
            (rpc,) = eventually(lambda: collector.named("flux job-ingest.submit"), what="the span of the RPC")
            assert (rpc.trace_id, rpc.parent_id) == (TRACE, span.span_id)
            assert rpc.attributes["rpc.method"] == "job-ingest.submit"
        (missing,) = eventually(lambda: collector.named("GET /v1/jobs/{uid}"), what="the other span")
        assert not missing.failed
        assert missing.attributes["url.path"] == "/v1/jobs/f1"
        # Log lines are in the server's span.
        line = line_with(server, "request", request_id="traced")
        assert (line["trace_id"], line["span_id"]) == (TRACE, span.span_id)


def test_no_spans_without_tracing(own_server: Callable[..., Server]) -> None:
    with Collector() as collector:
        server = own_server(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SDK_DISABLED="true")
        server.run("true")
        server.stop()
        server.wait()
        assert not collector.spans


def test_last_spans_are_exported_at_exit(own_server: Callable[..., Server]) -> None:
    with Collector() as collector:
        server = own_server(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="mine")
        server.stop()
        assert server.wait() == 0
        (span,) = collector.named("POST /v1/service/stop")
        assert span.service == "mine"
