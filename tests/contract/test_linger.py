"""A native sidecar that has done its work stays until kubelet ends it, and is not started again meanwhile."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from sidecar import app
from tests.support.harness import Server, eventually
from tests.support.settings import make_settings


def test_a_server_stays_after_its_stop_until_it_is_told_to_go(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "600", "--log-format", "json")
    own = _process(server)
    assert server.stop().status_code == 202
    eventually(lambda: '"event":"leaving"' in server.text(), what="the stop")
    os.kill(own, 0)  # it is there
    os.kill(own, signal.SIGTERM)
    assert server.wait() == 0


async def test_a_signal_that_arrives_as_it_begins_to_stay(tmp_path: Path) -> None:
    """It was taken before, and the loop comes to it only now: it was lost, and the server stayed for --linger."""
    server = app.Server(make_settings(embedded=True), tmp_path)
    lifecycle = server.lifecycle
    lifecycle.stop("now", by="test")
    lifecycle.over = True
    try:
        staying = asyncio.create_task(lifecycle.linger(600))
        await asyncio.sleep(0)
        lifecycle._on_signal(signal.SIGTERM)
        await asyncio.wait_for(staying, 30)
    finally:
        await server.tasks.close()


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
