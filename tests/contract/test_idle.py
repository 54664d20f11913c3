"""``--idle-stop``: an instance that nobody uses ends by itself, and one that is used does not."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.access import TokenFile
from tests.support.harness import Server, eventually
from tests.support.sse import ask


def service(server: Server) -> dict[str, Any]:
    """Ask the one thing that is no use of the instance."""
    return dict(server.http.get("/v1/service").json())


def idle(server: Server) -> float:
    """Return how long is left once the instance is idle."""
    return float(eventually(lambda: service(server)["idle_left"], what="idleness"))


def test_an_unused_instance_ends_with_0(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "3")
    assert server.wait() == 0
    assert "idle for 3s" in server.text()
    assert not server.leftovers()


def test_a_used_instance_ends_when_its_job_has_ended(own_server: Callable[..., Server]) -> None:
    """The job takes twice as long as an idle instance may last."""
    server = own_server("--idle-stop", "2.5s")
    server.submit("sleep 5")

    def job_has_ended() -> bool:
        found = service(server)
        assert not found["active_jobs"] or (found["state"], found["idle_left"]) == ("running", None)
        return not found["active_jobs"]

    eventually(job_has_ended, what="the end of the job")
    assert server.wait() == 0
    assert "idle for 2.5s" in server.text()


def test_off_by_default(server: Server) -> None:
    found = service(server)
    assert (found["idle_stop"], found["idle_left"]) == (None, None)


def test_what_is_left_is_shown_and_every_call_begins_anew(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "1.5h")
    assert service(server)["idle_stop"] == 5400
    first = idle(server)
    assert 0 < first <= 5400
    for path in ("/livez", "/readyz", "/v1/service"):
        # No calls, in the sense of a use: what is left becomes less, although somebody asks all the time.
        _less(server, 0.5, path)
    for use in ("/v1/jobs", "/no/such/path"):
        later = _less(server, 2, "/livez")
        server.http.get(use)
        assert idle(server) > later


def _less(server: Server, seconds: float, path: str) -> float:
    """Ask for a path until so many seconds less are left, and return how many are."""
    before = idle(server)

    def less() -> float | None:
        server.http.get(path)
        left = idle(server)
        return left if left < before - seconds else None

    return float(eventually(less, what=f"less than {before - seconds} s left"))


def test_a_call_under_way_is_a_use(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "30m")
    idle(server)
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(b"POST /v1/jobs/1/cancel HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        connection.sendall(b"Content-Length: 2\r\n\r\n")
        eventually(lambda: service(server)["idle_left"] is None, what="a use")
        connection.sendall(b"{}")
        assert b" 404 " in connection.recv(1000)
        assert idle(server) <= 1800


@pytest.mark.parametrize("path", ["/v1/events", "/v1/jobs/{job}/output/stream", "/v1/jobs/{job}/events"])
def test_a_stream_that_is_left_open_is_no_use(own_server: Callable[..., Server], path: str) -> None:
    """A browser's tab follows events for as long as it is open, and refreshes its page by itself."""
    server = own_server("--idle-stop", "3s")
    job = server.run("true")["id"]
    held = server.submit("true", urgency=0)  # a stream of its own does not end by itself
    with ask(server.url, path.format(job=held if "job" in path else job)) as stream:
        assert b" 200 OK" in stream.recv(200)
        server.http.post(f"/v1/jobs/{held}/cancel")

        def refresh() -> bool:
            try:
                return server.http.get("/jobs", headers={"Flux-Refresh": "1"}).status_code != 200
            except httpx.TransportError:
                return True

        eventually(refresh, what="the end of an instance that is only watched")
        assert server.wait() == 0


def test_a_call_of_a_page_is_a_use(own_server: Callable[..., Server]) -> None:
    """Unlike its refresh."""
    server = own_server("--idle-stop", "30m")
    before = _less(server, 1, "/livez")
    assert server.http.get("/jobs", headers={"Flux-Refresh": "1"}).status_code == 200
    assert idle(server) < before
    assert server.http.get("/jobs").status_code == 200
    assert idle(server) > before


def test_who_is_not_let_in_does_not_use_it(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """A scanner that tries the port all day must not keep a forgotten cluster alive."""
    server = own_server("--idle-stop", "2s", *TokenFile(tmp_path, someone="read").options)

    def knock() -> bool:
        try:
            assert server.http.get("/v1/jobs").status_code == 401
            assert server.http.get("/login").status_code == 200
        except httpx.TransportError:
            return True  # it has gone
        return False

    eventually(knock, what="the end of an instance that nobody uses")
    assert server.wait() == 0


def test_a_job_is_a_use(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "30m")
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    assert service(server)["idle_left"] is None
    server.http.post(f"/v1/jobs/{held}/cancel")
    server.ended(held)
    assert idle(server) <= 1800


def test_a_launcher_is_a_use(own_server: Callable[..., Server], tmp_path: Path) -> None:
    program, flag = tmp_path / "bin" / "snakemake", tmp_path / "flag"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\nwhile ! test -e {flag}; do sleep 0.05; done\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    server = own_server("--idle-stop", "3s", PATH=f"{program.parent}:{os.environ['PATH']}")
    answer = server.http.post("/v1/jobs/submit", json={"command": "snakemake", "is_launcher": True})
    assert answer.status_code == 200, answer.text
    found = service(server)
    assert (found["running_launchers"], found["idle_left"]) == (1, None)
    flag.touch()
    assert server.wait() == 0
    assert server.text().index("launcher ended") < server.text().index("idle for 3s")


def test_a_stop_goes_its_own_way(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "30m")
    idle(server)
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    server.stop(mode="drain", reason="by hand")
    eventually(lambda: service(server)["state"] == "draining")
    assert (service(server)["reason"], service(server)["idle_left"]) == ("by hand", None)
    server.stop(mode="now")
    assert server.wait() == 0


def test_by_variable(own_server: Callable[..., Server]) -> None:
    assert service(own_server(FLUX_SIDECAR_IDLE_STOP="2d"))["idle_stop"] == 2 * 86400
