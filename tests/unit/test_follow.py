"""Followed output, when its sources overlap: what a watch tells late was read otherwise meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sidecar.errors import Unavailable
from sidecar.follow import Followers
from sidecar.instance import HistoryBegin
from sidecar.output import Line, Output
from tests.unit.test_feed import END, job, live, running, told

LINES = [Line("stdout", "0", f"{number}\n".encode()) for number in range(4)]


def entry(number: int) -> str:
    return f'{{"name":"data","context":{{"stream":"stdout","rank":"0","data":"{number}\\n"}}}}\n'


class Instance:
    """Tells the output of one job whenever the test wants."""

    def __init__(self) -> None:
        self.watches: list[Callable[[str], None]] = []
        self.broken = asyncio.Event()

    async def output(self, _: int) -> Output:
        return Output(LINES)

    async def watch_output(self, _: int, take: Callable[[str], None]) -> None:
        self.watches.append(take)
        await self.broken.wait()
        self.broken.clear()
        raise Unavailable("the connection is lost")


async def test_no_line_comes_twice(tmp_path: Path) -> None:
    async with running(tmp_path / "s.sqlite") as (feed, store):
        for item in (HistoryBegin("i"), job(1, "alloc"), END):
            feed.push(item)
        await told(feed, 1)
        instance: Any = Instance()
        followers = Followers(instance, feed, store)
        follower = followers.join(1)
        async with asyncio.timeout(10):
            while len(instance.watches) < 1:
                await asyncio.sleep(0.01)
            instance.watches[0](entry(0))
            instance.broken.set()
            while len(instance.watches) < 2:
                await asyncio.sleep(0.01)
            # The second watch begins anew, and the first one's last words have been on their way.
            instance.watches[1](entry(0))
            instance.watches[0](entry(1))
            instance.watches[1](entry(1))
            assert follower.count == 2
            feed.push(live(1, "finish"))
            feed.push(live(1, "clean"))
            await follower.wait(3)
        instance.watches[1](entry(2))  # the whole output was read at the end, with this
        assert follower.ended
        assert await follower.read(0, 99) == LINES
        followers.leave(1)
