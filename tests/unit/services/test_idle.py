"""The countdown of ``--idle-stop``: jobs and requests restart it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.app.components import Components
from sidecar.domain.model import JobEvents
from sidecar.services.idle import IdleStop
from tests.support.settings import make_settings


@pytest.fixture
async def components(tmp_path: Path) -> AsyncIterator[Components]:
    components = Components(make_settings(embedded=True, idle_stop="100s"), tmp_path)
    await components.store.open()
    components.feed.start(components.tasks)
    await components.instance.start(components.feed, components.tasks)
    components.idle.start(components.tasks)
    yield components
    await components.instance.close()
    await components.feed.close()
    await components.tasks.close()
    await components.store.close()


async def countdown(idle: IdleStop) -> float:
    """Wait until the countdown has run for some time; return what is left of it."""
    async with asyncio.timeout(10):
        while (left := idle.left) is None or left > 99.95:
            await asyncio.sleep(0.01)
    return left


async def test_events_restart_the_countdown(components: Components) -> None:
    """A job may be too short to be seen active."""
    left = await countdown(components.idle)
    components.feed.push(JobEvents(1, []))
    assert components.idle.left is not None
    assert left < components.idle.left <= 100


async def test_requests_stop_and_restart_the_countdown(components: Components) -> None:
    left = await countdown(components.idle)
    with components.idle.in_use():
        with components.idle.in_use():
            assert components.idle.left is None
        assert components.idle.left is None
    assert components.idle.left is not None
    assert left < components.idle.left <= 100


async def test_failed_request_restarts_the_countdown(components: Components) -> None:
    await countdown(components.idle)
    with pytest.raises(RuntimeError), components.idle.in_use():
        raise RuntimeError
    assert components.idle.left
