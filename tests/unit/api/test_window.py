"""A long request takes as much of Flux as Flux does in a moment, and no more."""

from __future__ import annotations

import asyncio

from sidecar.api.window import AdaptiveLimit


async def _keep_full(window: AdaptiveLimit, seconds: float, turns: int) -> int:
    """Have so many done in the time that each takes; return how many were on their way at last."""
    inside = 0
    for _ in range(turns):
        while inside < window.size:
            await window.enter()
            inside += 1
        window.leave(seconds)
        inside -= 1
    return inside + 1


async def test_it_grows_where_flux_is_quick() -> None:
    window = AdaptiveLimit(4096)
    assert await _keep_full(window, 0.1, 10_000) == 4096


async def test_it_shrinks_where_flux_is_slow() -> None:
    window = AdaptiveLimit(4096)
    await _keep_full(window, 0.1, 10_000)
    for _ in range(4096 - 16):
        window.leave(5.0)
    assert window.size == 16


async def test_it_stays_where_flux_is_neither() -> None:
    window = AdaptiveLimit(4096)
    size = window.size
    assert await _keep_full(window, 1.5, 1000) == size


async def test_never_more_than_the_most() -> None:
    assert await _keep_full(AdaptiveLimit(3), 0.0, 100) == 3
    assert await _keep_full(AdaptiveLimit(3), 9.0, 100) == 3


async def test_who_waits_gets_the_next_place() -> None:
    window = AdaptiveLimit(1)
    await window.enter()
    waiting = [asyncio.create_task(window.enter()) for _ in range(2)]
    done, _ = await asyncio.wait(waiting, timeout=0)
    assert not done
    window.leave(0.0)
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(left)) == (1, 1)
    window.leave(0.0)
    await asyncio.wait(left)
