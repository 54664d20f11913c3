"""A bulk submit has as many jobs in flight as Flux accepts in about a second."""

from __future__ import annotations

import asyncio

from sidecar.api.window import AdaptiveLimit


async def _keep_full(limit: AdaptiveLimit, seconds: float, turns: int) -> int:
    """Release slots that were held for some seconds, and refill the limit; return how many are taken at the end."""
    taken = 0
    for _ in range(turns):
        while taken < limit.size:
            await limit.acquire()
            taken += 1
        limit.release(seconds)
        taken -= 1
    return taken + 1


async def test_limit_grows_while_flux_is_fast() -> None:
    limit = AdaptiveLimit(4096)
    assert await _keep_full(limit, 0.1, 10_000) == 4096


async def test_limit_shrinks_while_flux_is_slow() -> None:
    limit = AdaptiveLimit(4096)
    await _keep_full(limit, 0.1, 10_000)
    for _ in range(4096 - 16):
        limit.release(5.0)
    assert limit.size == 16


async def test_limit_is_stable_in_between() -> None:
    limit = AdaptiveLimit(4096)
    size = limit.size
    assert await _keep_full(limit, 1.5, 1000) == size


async def test_limit_has_a_maximum() -> None:
    assert await _keep_full(AdaptiveLimit(3), 0.0, 100) == 3
    assert await _keep_full(AdaptiveLimit(3), 9.0, 100) == 3


async def test_waiters_get_the_next_slot() -> None:
    limit = AdaptiveLimit(1)
    await limit.acquire()
    waiting = [asyncio.create_task(limit.acquire()) for _ in range(2)]
    done, _ = await asyncio.wait(waiting, timeout=0)
    assert not done
    limit.release(0.0)
    done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert (len(done), len(left)) == (1, 1)
    limit.release(0.0)
    await asyncio.wait(left)
