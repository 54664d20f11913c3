"""Who waits for what the feed has written: streams, long polls, and reads that are to find what was just submitted."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from sidecar.store import Store
from sidecar.tail import Tail, Wakeups

log = structlog.get_logger("feed")

_EXPECT = 2.0
_RECENT = 4096


class Audience:
    """Those who wait. :class:`~sidecar.feed.Feed` is built on this class, and tells it what is in the store."""

    def __init__(self, store: Store) -> None:
        self.tail = Tail(store)
        """For who follows the events."""
        self._expected: dict[int, int] = {}
        self._expectations = 0
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._changes: dict[int, Wakeups] = {}
        self._changed = asyncio.Condition()

    def expect(self, fluid: int) -> None:
        """Note a job that the instance has accepted: whoever reads from now on is to find it."""
        if fluid not in self._recent:
            self._expectations += 1
            self._expected[fluid] = self._expectations

    def expects(self, fluid: int) -> bool:
        """Whether an accepted job is not in the store yet."""
        return fluid in self._expected

    async def settle(self, fluid: int | None = None) -> None:
        """Wait until every accepted job, or this one, is in the store; at once when all are.

        A submit is answered when Flux has accepted the job, and pays nothing for the store; a read that comes
        before the store has heard of it waits these milliseconds instead.
        """
        if not self._expected or (fluid is not None and fluid not in self._expected):
            return
        last = self._expectations if fluid is None else self._expected[fluid]

        def told() -> bool:
            if fluid is not None:
                return fluid not in self._expected
            return not self._expected or next(iter(self._expected.values())) > last

        try:
            async with asyncio.timeout(_EXPECT):
                await self._until(told)
        except TimeoutError:
            late = [each for each, number in self._expected.items() if number <= last]
            log.warning("accepted jobs are not in the journal", jobs=len(late))
            for each in late:
                self._expected.pop(each, None)

    @contextmanager
    def change(self, fluid: int) -> Iterator[asyncio.Future[None]]:
        """Give a future that is done when something has happened to a job, and is in the store."""
        changes = self._changes.setdefault(fluid, Wakeups())
        try:
            with changes.next() as future:
                yield future
        finally:
            if not changes and self._changes.get(fluid) is changes:
                del self._changes[fluid]

    def end_streams(self, reason: str, detail: str) -> None:
        """Give every stream its last event, and let go of everybody who waits: the server leaves."""
        self.tail.close(reason, detail)
        self.release()

    def release(self) -> None:
        """Let everybody who waits for a job look again."""
        waiting, self._changes = self._changes, {}
        for changes in waiting.values():
            changes.wake()

    async def _until(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    def _tell(self, fluid: int) -> None:
        """Note that what has happened to a job is in the store."""
        if self._expected.pop(fluid, None) is None:
            self._recent[fluid] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        if changes := self._changes.pop(fluid, None):
            changes.wake()
