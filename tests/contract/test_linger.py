"""A native sidecar that has done its work stays until kubelet ends it, and is not started again meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.harness import Server, eventually


def test_a_server_stays_after_its_stop_until_it_is_told_to_go(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "600", "--log-format", "json")
    own = _process(server)
    assert server.stop().status_code == 202
    eventually(lambda: '"event":"leaving"' in server.text(), what="the stop")
    os.kill(own, 0)  # it is there
    os.kill(own, signal.SIGTERM)
    assert server.wait() == 0


def test_one_that_was_told_to_go_does_not_stay(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "600")
    own = _process(server)
    os.kill(own, signal.SIGTERM)
    assert server.wait() == 0


def test_nobody_tells_it(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "0.2")
    assert server.stop().status_code == 202
    assert server.wait() == 0
    assert "no signal has come: the server leaves" in server.text()


def _process(server: Server) -> int:
    """The server's own pid: on Flux it is the initial program, a child of the broker."""
    kind = server.http.get("/v1/service").json()["instance"]["kind"]
    return server.pid if kind == "embedded" else server.child("/flux-sidecar serve")
