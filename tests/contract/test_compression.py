"""Large answers are compressed for clients that accept it, and only where no secret is in them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import httpx
import pytest

from sidecar.app.server import Server as Application
from tests.support.harness import Server
from tests.support.settings import make_settings

LARGE = (
    "/v1/jobs?limit=100&details=true",
    "/v1/jobs?limit=100&details=true&listing=true",
    "/v1/jobs?details=true",  # in chunks
    "/v1/jobs/search?length=100",
)
_LINES = {"Accept": "application/x-ndjson"}


@pytest.fixture
def filled(server: Server) -> Server:
    """A server with jobs of 60 kB in all."""
    lines = [{"command": ["true", "x" * 1000], "urgency": 0, "name": f"large-{number}"} for number in range(60)]
    body = "\n".join(map(json.dumps, lines))
    answer = server.http.post("/v1/jobs/bulk", content=body, headers={"Content-Type": "application/x-ndjson"})
    assert answer.status_code == 200
    return server


def ask(
    server: Server, path: str, coding: str | None, method: str = "GET", **headers: str
) -> tuple[httpx.Response, bytes]:
    """Return a response and its body as it was received."""
    headers = {**headers, **({"Accept-Encoding": coding} if coding is not None else {})}
    request = server.http.build_request(method, path, headers=headers)
    if coding is None:
        del request.headers["Accept-Encoding"]
    with_body = server.http.send(request, stream=True)
    raw = b"".join(with_body.iter_raw())
    with_body.close()
    assert with_body.status_code == 200, raw
    return with_body, raw


@pytest.mark.parametrize(("path", "accept"), [*((path, {}) for path in LARGE), ("/v1/jobs", _LINES)])
def test_same_content(filled: Server, path: str, accept: dict[str, str]) -> None:
    plain, body = ask(filled, path, None, **accept)
    packed, raw = ask(filled, path, "gzip", **accept)
    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(raw) < len(body) / 5
    assert gzip.decompress(raw) == body
    for answer in (plain, packed):
        assert "Accept-Encoding" in answer.headers["Vary"]
        assert answer.headers.get("ETag") == plain.headers.get("ETag")  # it is weak
    head, nothing = ask(filled, path, "gzip", "HEAD", **accept)
    assert nothing == b""
    for name in ("Content-Encoding", "Content-Length", "Content-Type", "Vary"):
        assert head.headers.get(name) == packed.headers.get(name), name


@pytest.mark.parametrize(
    ("coding", "compressed"),
    [("gzip, deflate, br", True), ("*", True), ("gzip;q=0", False), ("identity", False), ("br", False), ("", False)],
)
def test_what_the_client_accepts(filled: Server, coding: str, compressed: bool) -> None:
    answer, _ = ask(filled, LARGE[0], coding)
    assert (answer.headers.get("Content-Encoding") == "gzip") is compressed


def test_small_answers_are_sent_as_they_are(server: Server) -> None:
    answer, _ = ask(server, "/v1/jobs?limit=1", "gzip")
    assert "Content-Encoding" not in answer.headers
    assert "Accept-Encoding" in answer.headers["Vary"]


def test_not_modified_varies(filled: Server) -> None:
    tag = ask(filled, LARGE[0], "gzip")[0].headers["ETag"]
    answer = filled.http.get(LARGE[0], headers={"If-None-Match": tag})
    assert (answer.status_code, answer.headers["Vary"]) == (304, "Accept, Accept-Encoding")
    assert "Content-Encoding" not in answer.headers


def test_output_and_metrics(server: Server) -> None:
    job = server.run(["sh", "-c", "seq 20000"])["id"]
    for path, accept in ((f"/v1/jobs/{job}/output", "text/plain"), (f"/v1/jobs/{job}/output", "application/json")):
        plain, body = ask(server, path, None, Accept=accept)
        packed, raw = ask(server, path, "gzip", Accept=accept)
        assert (packed.headers["Content-Encoding"], gzip.decompress(raw)) == ("gzip", body)
        assert plain.headers["Content-Type"] == packed.headers["Content-Type"]
    stream, _ = ask(server, f"/v1/jobs/{job}/output/stream", "gzip", Accept="text/event-stream")
    assert "Content-Encoding" not in stream.headers
    metrics, raw = ask(server, "/metrics", "gzip")
    assert (metrics.headers.get("Content-Encoding") == "gzip") is (raw[:2] == b"\x1f\x8b")
    text = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    assert b"flux_sidecar_http_requests_total{" in text
    assert "Content-Encoding" not in ask(server, "/metrics", "gzip;q=0")[0].headers


def test_never_with_secrets(tmp_path: Path) -> None:
    """No operation whose answer may have a token, a password or an environment allows compression."""
    operations = Application(make_settings(embedded=True), tmp_path).operations
    assert {op.path for op in operations if op.compress} == {
        "/v1/jobs",
        "/v1/jobs/search",
        "/v1/jobs/{uid}/eventlog",
        "/v1/jobs/{uid}/output",
        "/metrics",
        "/metrics/users",
    }
    assert not [op.path for op in operations if op.compress and (op.page or op.method != "GET" or op.stream)]


def test_pages_and_errors_are_not_compressed(filled: Server) -> None:
    for path in ("/jobs", "/v1/jobs?limit=x" + "y" * 40_000):
        request = filled.http.build_request("GET", path, headers={"Accept-Encoding": "gzip", "Accept": "text/html"})
        answer = filled.http.send(request)
        assert "Content-Encoding" not in answer.headers, path
