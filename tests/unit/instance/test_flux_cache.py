"""Callers share one request; after a change, responses to earlier requests are not used."""

from __future__ import annotations

import asyncio

from sidecar.domain.errors import Unavailable
from sidecar.instance.flux.cache import CachedAnswer


class Source:
    """Responds with the value at the time of the request, when allowed."""

    def __init__(self) -> None:
        self.value = 1
        self.requests = 0
        self.may_respond = asyncio.Event()
        self.may_respond.set()
        self.broken = False

    async def __call__(self) -> int:
        self.requests += 1
        value = self.value
        await self.may_respond.wait()
        if self.broken:
            raise Unavailable("not connected")
        return value


async def test_many_callers_share_one_request() -> None:
    source = Source()
    cached = CachedAnswer("numbers", source, 0)
    assert await asyncio.gather(*(cached.get() for _ in range(50))) == [1] * 50
    assert await cached.get() == 1
    assert source.requests == 1


async def test_change_invalidates_earlier_requests() -> None:
    source = Source()
    cached = CachedAnswer("numbers", source, 0)
    source.may_respond.clear()
    before = asyncio.create_task(cached.get())
    while not source.requests:
        await asyncio.sleep(0)
    source.value = 2
    after = asyncio.create_task(cached.renew())
    source.may_respond.set()
    assert (await before, await after, await cached.get()) == (1, 2, 2)


async def test_failed_request_keeps_the_last_response() -> None:
    source = Source()
    cached = CachedAnswer("numbers", source, 0)
    assert await cached.get() == 1
    source.broken = True
    assert (await cached.renew(), cached.last) == (1, 1)
    source.broken, source.value = False, 3
    assert await cached.get() == 3


async def test_a_cancelled_caller_does_not_affect_others() -> None:
    source = Source()
    cached = CachedAnswer("numbers", source, 0)
    source.may_respond.clear()
    cancelled, other = (asyncio.create_task(cached.get()) for _ in range(2))
    while not source.requests:
        await asyncio.sleep(0)
    cancelled.cancel()
    source.may_respond.set()
    assert await other == 1


async def test_clear_invalidates_the_response() -> None:
    source = Source()
    cached = CachedAnswer("numbers", source, 0)
    await cached.get()
    cached.clear()
    assert cached.last == 0
    assert await cached.get() == 1
    assert source.requests == 2
