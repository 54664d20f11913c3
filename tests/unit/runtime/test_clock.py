"""Timeouts of connections stop while the event loop is blocked."""

from __future__ import annotations

import asyncio
import time

import pytest

from sidecar.runtime.clock import LoopClock

_BLOCKED = 0.6


@pytest.fixture
async def clock() -> LoopClock:
    clock = LoopClock()
    clock.start()
    return clock


def block(seconds: float = _BLOCKED) -> None:
    """Block the event loop, as decoding a large body would."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_clock_runs_with_the_event_loop(clock: LoopClock) -> None:
    before, real, called = clock.time(), time.monotonic(), asyncio.Event()
    clock.call_later(0.3, called.set)
    await asyncio.wait_for(called.wait(), 10)
    # An event loop that waits for the processor is blocked too: the time may be less than the real time, never more.
    assert 0 < clock.time() - before <= time.monotonic() - real + 0.01
    clock.close()


async def test_clock_stops_with_the_event_loop(clock: LoopClock) -> None:
    await asyncio.sleep(0)
    before = clock.time()
    block()
    assert clock.time() - before < _BLOCKED - 0.2
    await asyncio.sleep(0)  # the late tick has been counted, once
    await asyncio.sleep(0)
    assert clock.time() - before < _BLOCKED - 0.2
    clock.close()


async def test_callback_that_was_due_while_blocked_is_delayed(clock: LoopClock) -> None:
    """Data that arrived in the meantime is read before the peer is considered silent."""
    called = asyncio.Event()
    clock.call_later(0.4, called.set)
    block()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not called.is_set()
    await asyncio.wait_for(called.wait(), 10)
    clock.close()


async def test_a_cancelled_callback(clock: LoopClock) -> None:
    called = []
    clock.call_later(0.01, lambda: called.append(1)).cancel()
    done = asyncio.Event()
    clock.call_later(0.05, done.set)
    await asyncio.wait_for(done.wait(), 10)
    assert not called
    clock.close()


async def test_a_timeout(clock: LoopClock) -> None:
    with pytest.raises(TimeoutError):
        async with clock.timeout(0.01):
            await asyncio.Event().wait()
    async with clock.timeout(60):
        pass
    clock.close()


async def test_a_timeout_stops_while_the_event_loop_is_blocked(clock: LoopClock) -> None:
    woken = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        block()
        woken.set()

    task = asyncio.create_task(work())
    async with clock.timeout(0.4):
        await woken.wait()
    await task
    clock.close()


async def test_clock_before_its_start_is_the_event_loops() -> None:
    clock, called = LoopClock(), asyncio.Event()
    clock.call_later(0.01, called.set)
    await asyncio.wait_for(called.wait(), 10)
