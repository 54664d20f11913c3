"""Tests that need a real Flux."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import Broker, eventually

Start = Callable[[Any], Any]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.flux)


@pytest.fixture
def broker(tmp_path: Path, started: Start) -> Broker:
    """A broker in RUN, without initial program."""
    import flux  # these tests are collected without Flux too

    made: Broker = started(Broker(tmp_path, cores=2))
    handle = flux.Flux(made.running().uri)
    eventually(lambda: handle.rpc("state-machine.get").get()["state"] == "run", what="the state RUN")
    return made
