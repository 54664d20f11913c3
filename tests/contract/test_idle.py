"""``--idle-stop``: an idle instance is stopped, and one in use is not."""

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
    """Read the service's status, which does not count as use."""
    return dict(server.http.get("/v1/service").json())


def idle(server: Server) -> float:
    """Wait until the instance is idle; return the seconds until it is stopped."""
    return float(eventually(lambda: service(server)["idle_left"], what="idleness"))


def test_idle_instance_is_stopped_with_exit_code_0(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "3")
    assert server.wait() == 0
    assert "idle for 3s" in server.text()
    assert not server.leftovers()


def test_instance_stops_after_its_job_has_ended(own_server: Callable[..., Server]) -> None:
    """The job takes twice as long as the idle time."""
    server = own_server("--idle-stop", "2.5s")
    server.submit("sleep 5")

    def job_has_ended() -> bool:
        found = service(server)
        assert not found["active_jobs"] or (found["state"], found["idle_left"]) == ("running", None)
        return not found["active_jobs"]

    eventually(job_has_ended, what="the end of the job")
    assert server.wait() == 0
    assert "idle for 2.5s" in server.text()


def test_disabled_by_default(server: Server) -> None:
    found = service(server)
    assert (found["idle_stop"], found["idle_left"]) == (None, None)


def test_idle_time_is_shown_and_restarts_with_each_request(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "1.5h")
    assert service(server)["idle_stop"] == 5400
    first = idle(server)
    assert 0 < first <= 5400
    for path in ("/livez", "/readyz", "/v1/service"):
        # These requests are not a use: the remaining time decreases although they are sent all the time.
        _wait_for_less(server, 0.5, path)
    for use in ("/v1/jobs", "/no/such/path"):
        later = _wait_for_less(server, 2, "/livez")
        server.http.get(use)
        assert idle(server) > later


def _wait_for_less(server: Server, seconds: float, path: str) -> float:
    """Request a path until the remaining time has decreased by the given seconds, and return it."""
    before = idle(server)

    def less() -> float | None:
        server.http.get(path)
        left = idle(server)
        return left if left < before - seconds else None

    return float(eventually(less, what=f"less than {before - seconds} s left"))


def test_request_in_progress_is_a_use(own_server: Callable[..., Server]) -> None:
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
def test_open_stream_is_not_a_use(own_server: Callable[..., Server], path: str) -> None:
    """A browser tab follows events while it is open, and refreshes its page."""
    server = own_server("--idle-stop", "3s")
    job = server.run("true")["id"]
    held = server.submit("true", urgency=0)  # its stream does not end while the instance runs
    with ask(server.url, path.format(job=held if "job" in path else job)) as stream:
        assert b" 200 OK" in stream.recv(200)
        server.http.post(f"/v1/jobs/{held}/cancel")

        def refresh() -> bool:
            try:
                return server.http.get("/jobs", headers={"Flux-Refresh": "1"}).status_code != 200
            except httpx.TransportError:
                return True

        eventually(refresh, what="the end of an instance with an open page")
        assert server.wait() == 0


def test_page_request_is_a_use(own_server: Callable[..., Server]) -> None:
    """Unlike a refresh of the page."""
    server = own_server("--idle-stop", "30m")
    before = _wait_for_less(server, 1, "/livez")
    assert server.http.get("/jobs", headers={"Flux-Refresh": "1"}).status_code == 200
    assert idle(server) < before
    assert server.http.get("/jobs").status_code == 200
    assert idle(server) > before


def test_rejected_requests_are_not_a_use(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """A scanner that tries the port all day must not keep a forgotten cluster alive."""
    server = own_server("--idle-stop", "2s", *TokenFile(tmp_path, someone="read").options)

    def knock() -> bool:
        try:
            assert server.http.get("/v1/jobs").status_code == 401
            assert server.http.get("/login").status_code == 200
        except httpx.TransportError:
            return True  # the server has exited
        return False

    eventually(knock, what="the end of an instance that gets only rejected requests")
    assert server.wait() == 0


def test_job_is_a_use(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "30m")
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    assert service(server)["idle_left"] is None
    server.http.post(f"/v1/jobs/{held}/cancel")
    server.ended(held)
    assert idle(server) <= 1800


def test_launcher_is_a_use(own_server: Callable[..., Server], tmp_path: Path) -> None:
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


def test_stop_is_independent_of_the_idle_time(own_server: Callable[..., Server]) -> None:
    server = own_server("--idle-stop", "30m")
    idle(server)
    held = server.submit("true", urgency=0)
    server.state(held, "SCHED")
    server.stop(mode="drain", reason="by hand")
    eventually(lambda: service(server)["state"] == "draining")
    assert (service(server)["reason"], service(server)["idle_left"]) == ("by hand", None)
    server.stop(mode="now")
    assert server.wait() == 0


def test_environment_variable(own_server: Callable[..., Server]) -> None:
    assert service(own_server(FLUX_SIDECAR_IDLE_STOP="2d"))["idle_stop"] == 2 * 86400
