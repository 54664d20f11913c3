"""``--linger``: after a stop a native sidecar waits for the kubelet's signal, so that it is not restarted."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from sidecar.app.components import Components
from tests.support.harness import Server, eventually
from tests.support.settings import make_settings


def test_server_lingers_after_a_stop_until_a_signal(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "600", "--log-format", "json")
    own = _process(server)
    assert server.stop().status_code == 202
    eventually(lambda: '"event":"leaving"' in server.text(), what="the stop")
    os.kill(own, 0)  # it still exists
    os.kill(own, signal.SIGTERM)
    assert server.wait() == 0


async def test_signal_that_arrives_as_the_linger_starts(tmp_path: Path) -> None:
    """The signal handler has already run, and the event loop processes the signal only now: it counts."""
    components = Components(make_settings(embedded=True), tmp_path)
    components.lifecycle.stop("now", by="test")
    components.lifecycle.instance_ended = True
    try:
        lingering = asyncio.create_task(components.signals.linger(600))
        await asyncio.sleep(0)
        components.signals.receive(signal.SIGTERM)
        await asyncio.wait_for(lingering, 30)
    finally:
        await components.tasks.close()


def test_signalled_server_does_not_linger(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "600")
    own = _process(server)
    os.kill(own, signal.SIGTERM)
    assert server.wait() == 0


def test_linger_ends_without_a_signal(own_server: Callable[..., Server]) -> None:
    server = own_server("--linger", "0.2")
    assert server.stop().status_code == 202
    assert server.wait() == 0
    assert "no signal has come: the server leaves" in server.text()


def _process(server: Server) -> int:
    """Return the server's own pid: on Flux it is the initial program, a child of the broker."""
    kind = server.http.get("/v1/service").json()["instance"]["kind"]
    return server.pid if kind == "embedded" else server.child("/flux-sidecar serve")
