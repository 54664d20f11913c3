"""The server's keys in the KVS, where any job can write: a server starts with any value there."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecar.domain.model import JobEvents, JournalBegin
from sidecar.runtime.tasks import Supervisor
from sidecar.telemetry.instruments import Instruments
from tests.support.harness import FLUX, Broker, beside

if FLUX:  # these tests are collected, and counted, without Flux too
    import flux

    from sidecar.instance.flux import lease
    from sidecar.instance.flux.broker import handshake
    from sidecar.instance.flux.instance import FluxInstance
    from sidecar.instance.flux.thread import FluxThread

Start = Callable[[Any], Any]

_LOST = 3.0  # seconds; a handshake takes one of them on a busy machine

_HOLDER = '{"pid":1,"host":"x","address":"","since":1}'
_MISSING = '{"data":["sha1-1c002dde0c9bd14b1cd3a5ac2ce0e3ba5d5f0d9c"],"type":"%s","ver":1}'
#: Commands of `flux kvs` that any job can run.
TRAPS: dict[str, list[list[str]]] = {
    "a rank of 64 bits": [["put", f"flux-sidecar.servers.99999999999={_HOLDER}"]],
    "a negative rank": [["put", f"flux-sidecar.servers.-7={_HOLDER}"]],
    "a rank that is not there": [["put", f"flux-sidecar.servers.5={_HOLDER}"]],
    "a rank that is a directory": [["put", "flux-sidecar.servers.0.x=1"]],
    "servers that are a value": [["put", "flux-sidecar.servers=7"]],
    "servers that link to themselves": [["link", "flux-sidecar.servers", "flux-sidecar.servers"]],
    "servers that are lost": [["put", "--treeobj", f"flux-sidecar.servers={_MISSING % 'dirref'}"]],
    "an identity that is a directory": [["put", "flux-sidecar.instance.a=1"]],
    "an identity that is an object": [["put", 'flux-sidecar.instance={"a":1}']],
    "an identity that is not text": [["put", "flux-sidecar.instance=null"]],
    "an identity that is too long": [["put", f"flux-sidecar.instance={'a' * 100_000}"]],
    "an identity that is too deep": [["put", "--raw", f"flux-sidecar.instance={'[' * 100_000}"]],
    "an identity that links to itself": [["link", "flux-sidecar.instance", "flux-sidecar.instance"]],
    "an identity that is elsewhere": [["link", "--target-namespace=none", "x", "flux-sidecar.instance"]],
    "an identity that is lost": [["put", "--treeobj", f"flux-sidecar.instance={_MISSING % 'valref'}"]],
    "all of it a value": [["put", "flux-sidecar=5"]],
    "all of it links to itself": [["link", "flux-sidecar", "flux-sidecar"]],
    "all of it elsewhere": [["link", "--target-namespace=none", "x", "flux-sidecar"]],
}


def _set(broker: Broker, name: str) -> None:
    broker.run("kvs", "unlink", "-Rf", "flux-sidecar")
    for command in TRAPS[name]:
        done = broker.run("kvs", *command)
        assert done.returncode == 0, (name, done.stderr)


def test_any_value_in_the_kvs(broker: Broker) -> None:
    """A server that connects replaces the keys that it cannot read; the next one reads its values."""
    for name in TRAPS:
        _set(broker, name)
        known = []
        for _ in range(2):
            handle = flux.Flux(broker.uri)
            known.append(handshake(handle, None, "here").identity)
            lease.release(handle)
        assert known[0] == known[1], name
        assert re.fullmatch("[0-9a-f]{32}", known[0]), name
        assert f'"pid": {os.getpid()}' in broker.run("kvs", "get", "flux-sidecar.servers.0").stdout, name


@pytest.mark.parametrize("name", ["a rank of 64 bits", "an identity that is a directory"])
def test_a_server_starts(name: str, broker: Broker, tmp_path: Path, started: Start) -> None:
    _set(broker, name)
    server = started(beside(broker, tmp_path, "--lost-timeout", "1")).ready()
    assert server.run("true")["result"] == "COMPLETED"
    assert "has died" not in server.text()


class _NullSink:
    """Discards the events of the instance."""

    backlog = 0

    def push(self, item: JournalBegin | JobEvents) -> None:
        """Discard an item."""

    def interrupted(self) -> None:
        """Do nothing."""


@pytest.mark.parametrize("used", [False, True])
async def test_a_crash_of_the_thread_is_not_the_end_of_the_instance(
    used: bool, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither before the first connection nor after one, however long it lasts; only the end of the broker is."""
    failing, connect = not used, FluxThread._connect
    tries: list[None] = []

    def fails(self: FluxThread) -> Any:
        known = connect(self)
        if failing:
            tries.append(None)
            raise OverflowError("integer 99999999999 does not fit")
        return known

    monkeypatch.setattr(FluxThread, "_connect", fails)
    monkeypatch.setattr("sidecar.instance.flux.thread._LONGEST_RETRY", 0.05)
    instance = FluxInstance(broker.uri, Instruments(), rpc_timeout=10, lost_timeout=_LOST, silence_timeout=10)

    async def until(check: Callable[[], bool]) -> None:
        while not check():
            await asyncio.sleep(0.01)

    async with asyncio.timeout(60):
        await instance.start(_NullSink(), Supervisor())
        if used:
            await until(lambda: instance.status.connection == "ready")
            failing = True
            instance.replay_history()
        begin = time.monotonic()
        await until(lambda: len(tries) > 8 and time.monotonic() - begin > _LOST)
        assert not instance.gone.is_set()
        assert "OverflowError" in instance.status.detail
        failing = False
        await until(lambda: instance.status.connection == "ready")
        broker.close()
        await instance.gone.wait()
        await instance.close()
