"""A time-out of a connection does not run while the loop stands."""

from __future__ import annotations

import asyncio
import time

import pytest

from sidecar.runtime.clock import LoopClock

_STOOD = 0.6


@pytest.fixture
async def clock() -> LoopClock:
    found = LoopClock()
    found.start()
    return found


def stand(seconds: float = _STOOD) -> None:
    """Keep the loop from doing anything, as a decoder of a large body would."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


async def test_it_runs_with_the_loop(clock: LoopClock) -> None:
    before, real, called = clock.time(), time.monotonic(), asyncio.Event()
    clock.call_later(0.3, called.set)
    await asyncio.wait_for(called.wait(), 10)
    # A loop that has to wait for the processor stands, too: it may be less than the real time, and never more.
    assert 0 < clock.time() - before <= time.monotonic() - real + 0.01
    clock.close()


async def test_it_stands_with_the_loop(clock: LoopClock) -> None:
    await asyncio.sleep(0)
    before = clock.time()
    stand()
    assert clock.time() - before < _STOOD - 0.2
    await asyncio.sleep(0)  # the beat that was due has been counted by now, and once
    await asyncio.sleep(0)
    assert clock.time() - before < _STOOD - 0.2
    clock.close()


async def test_a_callback_that_was_due_meanwhile_waits(clock: LoopClock) -> None:
    """What came while the loop stood is read before the peer is said to have been silent."""
    called = asyncio.Event()
    clock.call_later(0.4, called.set)
    stand()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not called.is_set()
    await asyncio.wait_for(called.wait(), 10)
    clock.close()


async def test_a_callback_that_was_cancelled(clock: LoopClock) -> None:
    called = []
    clock.call_later(0.01, lambda: called.append(1)).cancel()
    done = asyncio.Event()
    clock.call_later(0.05, done.set)
    await asyncio.wait_for(done.wait(), 10)
    assert not called
    clock.close()


async def test_a_time_out(clock: LoopClock) -> None:
    with pytest.raises(TimeoutError):
        async with clock.timeout(0.01):
            await asyncio.Event().wait()
    async with clock.timeout(60):
        pass
    clock.close()


async def test_a_time_out_does_not_run_while_the_loop_stands(clock: LoopClock) -> None:
    woken = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0)
        stand()
        woken.set()

    task = asyncio.create_task(work())
    async with clock.timeout(0.4):
        await woken.wait()
    await task
    clock.close()


async def test_until_it_is_started_it_is_the_loops_own() -> None:
    clock, called = LoopClock(), asyncio.Event()
    clock.call_later(0.01, called.set)
    await asyncio.wait_for(called.wait(), 10)
