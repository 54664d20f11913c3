"""One question at a time, whoever asks; and after a change none that was asked before it."""

from __future__ import annotations

import asyncio

from sidecar.domain.errors import Unavailable
from sidecar.instance.flux.cache import CachedAnswer


class Source:
    """Answers with the value that it had when it was asked, once it is let to."""

    def __init__(self) -> None:
        self.value = 1
        self.asked = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.broken = False

    async def __call__(self) -> int:
        self.asked += 1
        value = self.value
        await self.may_answer.wait()
        if self.broken:
            raise Unavailable("nobody there")
        return value


async def test_many_callers_are_one_question() -> None:
    source = Source()
    recent = CachedAnswer("numbers", source, 0)
    assert await asyncio.gather(*(recent.get() for _ in range(50))) == [1] * 50
    assert await recent.get() == 1
    assert source.asked == 1


async def test_after_a_change_the_answer_to_an_older_question_does_not_count() -> None:
    source = Source()
    recent = CachedAnswer("numbers", source, 0)
    source.may_answer.clear()
    before = asyncio.create_task(recent.get())
    while not source.asked:
        await asyncio.sleep(0)
    source.value = 2
    after = asyncio.create_task(recent.renew())
    source.may_answer.set()
    assert (await before, await after, await recent.get()) == (1, 2, 2)


async def test_without_an_answer_the_last_one_stays_and_it_is_asked_again() -> None:
    source = Source()
    recent = CachedAnswer("numbers", source, 0)
    assert await recent.get() == 1
    source.broken = True
    assert (await recent.renew(), recent.last) == (1, 1)
    source.broken, source.value = False, 3
    assert await recent.get() == 3


async def test_a_caller_who_leaves_takes_nobody_along() -> None:
    source = Source()
    recent = CachedAnswer("numbers", source, 0)
    source.may_answer.clear()
    impatient, patient = (asyncio.create_task(recent.get()) for _ in range(2))
    while not source.asked:
        await asyncio.sleep(0)
    impatient.cancel()
    source.may_answer.set()
    assert await patient == 1


async def test_forgotten_is_asked_for() -> None:
    source = Source()
    recent = CachedAnswer("numbers", source, 0)
    await recent.get()
    recent.clear()
    assert recent.last == 0
    assert await recent.get() == 1
    assert source.asked == 2
