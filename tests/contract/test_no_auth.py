"""``--no-auth``: warnings in the log and on the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.harness import Server, embedded

Start = Callable[[Server], Server]

NOTICE = "Every client that reaches this server has full access"


def test_warnings_with_no_auth(tmp_path: Path, started: Start) -> None:
    server = started(embedded(tmp_path, "--host", "0.0.0.0", "--no-auth"))
    assert server.url.startswith("http://0.0.0.0:")
    service = server.ready().http.get("/v1/service").json()
    assert (service["auth"], service["no_auth"]) == (False, True)
    assert "every client that reaches the port can run programs" in server.text()
    for page in ("/docs", "/login"):
        assert NOTICE in server.http.get(page).text


def test_no_warnings_on_loopback(tmp_path: Path, started: Start) -> None:
    server = started(embedded(tmp_path)).ready()
    service = server.http.get("/v1/service").json()
    assert (service["auth"], service["no_auth"]) == (False, False)
    assert "every client that reaches the port" not in server.text()
    assert NOTICE not in server.http.get("/login").text
    page = server.http.get("/docs")
    assert NOTICE not in page.text
    assert "$" not in page.text
    assert "unsafe-inline" not in page.headers["Content-Security-Policy"]
