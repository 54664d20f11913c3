"""The OpenAPI document matches the server: it is valid and complete, and schemathesis compares it with responses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from sidecar.app.server import Server as Application
from tests.support.access import TokenFile
from tests.support.harness import BIN, SIDECAR, Server, embedded
from tests.support.settings import make_settings

#: Served, but not in the document: files for the pages, and errors for all other requests.
UNDOCUMENTED = {"/static/{path}", "/{path}"}


def test_valid_openapi(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()
    printed = subprocess.run([SIDECAR, "openapi"], check=True, text=True, capture_output=True)
    assert document["security"].pop(0) == {}  # no credential is required here
    assert json.loads(printed.stdout) == document


def test_documented_routes_are_the_served_routes(server: Server) -> None:
    document = server.http.get("/openapi.json").json()
    documented = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    server_ = Application(make_settings(embedded=True), Path("/nonexistent"))
    application, pages = server_.application(), {(op.method, op.path) for op in server_.operations if op.page}
    assert ("POST", "/stop") in pages
    routed = {
        (r.method, r.resource.canonical) for r in application.router.routes() if r.resource and r.method != "HEAD"
    }
    assert {route for route in routed if route[1] not in UNDOCUMENTED} - pages == documented
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]


def test_request_bodies_suit_generated_clients(server: Server) -> None:
    """Of two media types with one schema, openapi-python-client sends both bodies at once.

    If its name contains json, it and openapi-generator encode the body, an NDJSON body too.
    """
    for path, methods in server.http.get("/openapi.json").json()["paths"].items():
        for operation in methods.values():
            if body := operation.get("requestBody"):
                expected = "application/octet-stream" if path == "/v1/jobs/bulk" else "application/json"
                assert list(body["content"]) == [expected], path


@pytest.mark.long
def test_schemathesis(tmp_path: Path, started: Callable[[Server], Server]) -> None:
    """Valid and invalid requests, generated for every operation that responds by itself and does not end the server."""
    tokens = TokenFile(tmp_path, someone="admin")
    server = started(
        embedded(tmp_path, *tokens.options, "--rate-limit", "0", "--guess-limit", "0", FLUX_TOKEN="a password")
    ).ready()
    # It does not support NDJSON bodies, and would wait for the end of /v1/events; other tests cover both. Waits and
    # streams get a short timeout, so that they do not wait for the end of a held job.
    # Below /api/v1 an unsupported method is 404, not 405.
    (tmp_path / "schemathesis.toml").write_text(
        "[parameters]\nwait = 0.01\nfollow = false\n"
        "[checks]\nenabled = true\npositive_data_acceptance.enabled = false\n"
        "[[operations]]\ninclude-path-regex = '^/api/v1/'\n[operations.checks]\nunsupported_method.enabled = false\n"
    )
    done = subprocess.run(
        [
            str(BIN / "schemathesis"), "run", f"{server.url}/openapi.json",
            "--header", f"Authorization: Bearer {tokens.tokens['someone']}", "--exclude-path", "/v1/service/stop",
            "--exclude-path-regex", "/(events|bulk)$",
            "--max-examples", "60", "--seed", "1", "--no-color", "--generation-database", "none",
        ],
        text=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    assert server.http.get("/livez").status_code == 200
    assert "a request failed" not in server.text(), server.text()[-3000:]
