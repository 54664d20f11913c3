"""Read your writes: what the instance has accepted, and what of it is in the store.

A command is answered when the instance has carried it out, and the store hears of it a moment later, from the journal.
So a read waits for what was accepted before it: a read of one job for that job, a list for all jobs, and a command that
selects jobs for every one of them. The wait has a bound, and nothing is forgotten when it ends: what belongs to the
reader's own commands is then answered with 503 and the lag, what belongs to those of others is left out, and the answer
tells the lag.

What was accepted and is not stored is bounded in number and bytes. A submit waits for room, so that neither memory nor
the lag of the journal grows with what is submitted.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from sidecar.domain.errors import Lagging
from sidecar.journal.steady import Steady
from sidecar.journal.unended import ActiveJobs
from sidecar.store import Store, StoreError

K = TypeVar("K")

BOUND = 10.0
"""How long a read waits for what its caller has had accepted before (seconds)."""
_OTHERS = 1.0  # for what others have had accepted
STUCK = 3.0
"""From when on a write that has not succeeded counts as a store that cannot be written (seconds)."""
_TICK = 1.0
_MOST, _BULK = 1024, 512  # accepted jobs that are not stored yet: at most, and while a bulk goes on
_MOST_BYTES = 32 * 1024 * 1024
_RECENT = 4096
_LOOKED_UP = 100
_LONGEST_RETRY = 30
_PATIENCE = 6  # times the bound: how long a submit waits while others' jobs are stored


class _Expected(NamedTuple):
    caller: str
    number: int
    size: int
    since: float


class Barrier:
    """Knows what the store has not heard of yet.

    Args:
        store: is asked for a job that is expected for long.
    """

    def __init__(self, store: Store) -> None:
        self._jobs_stored = store
        self.steady = Steady()
        self.unended = ActiveJobs()
        """Jobs that have not ended, by what the instance has told: also while nothing can be stored."""
        self._expected: dict[int, _Expected] = {}
        self._expected_of: dict[str, dict[int, int]] = {}
        self._number = 0
        self._recent: OrderedDict[int, None] = OrderedDict()
        self._accepting = self._bytes = 0
        self._pushed = self._written = 0
        self._last_command = 0
        self._commands: dict[int, int] = {}
        self._commands_of: dict[str, int] = {}
        self._leaving = False
        self._changed = asyncio.Condition()

    # ----------------------------------------------------------------------------------- what was accepted

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Wait until one more job may be accepted; it counts from then on.

        Args:
            size: of its jobspec (bytes).

        Raises:
            Lagging: what was accepted before is not stored in time.
        """
        if not self._has_room(size):
            await self._wait_for_room(size)
        self._accepting += 1
        self._bytes += size
        try:
            yield
        finally:
            self._accepting -= 1
            self._bytes -= size

    def _has_room(self, size: int) -> bool:
        if self.steady.stuck > STUCK:
            return False
        fits = self._bytes + size <= _MOST_BYTES or not (self._accepting or self._expected)
        return fits and len(self._expected) < _MOST

    async def _wait_for_room(self, size: int) -> None:
        """Wait for as long as the store makes progress, within a bound."""
        for _ in range(_PATIENCE):
            before = self._written
            if self.steady.stuck <= STUCK:
                await self._wait(lambda: self._has_room(size) or self.steady.stuck > STUCK, BOUND)
            if self._has_room(size):
                return
            if self._written == before or self.steady.stuck > STUCK or self._leaving:
                break
        raise self._lagging("No jobs are accepted")

    async def ease(self, pending: Callable[[], int] = lambda: 0) -> None:
        """Wait until a bulk may go on, for as long as the store makes progress: others' submits have room meanwhile.

        Args:
            pending: tells how many lines of it are on their way already.
        """

        def eased() -> bool:
            few = len(self._expected) < _BULK and len(self._expected) + pending() < _MOST
            return few and self._bytes <= _MOST_BYTES // 2

        while not eased():
            before = self._written
            if await self._wait(eased, BOUND):
                return
            if self._written == before or self.steady.stuck > STUCK or self._leaving:
                return  # each line is refused with the reason

    def expect(self, fluid: int, caller: str = "", size: int = 0) -> None:
        """Note a job that the instance has accepted: every later read is to find it."""
        self.unended.accept(fluid)
        if fluid in self._recent or fluid in self._expected:
            return
        self._number += 1
        self._bytes += size
        self._expected[fluid] = _Expected(caller, self._number, size, time.monotonic())
        self._expected_of.setdefault(caller, {})[fluid] = self._number

    def expects(self, fluid: int) -> bool:
        """Whether an accepted job is not in the store yet."""
        return fluid in self._expected

    def commanded(self, fluid: int, caller: str) -> None:
        """Note that the instance has carried out a command on a job: later reads are to see what came of it."""
        if self._pushed > self._written:
            self._last_command = self._pushed
            _put_last(self._commands, fluid, self._pushed)
            _put_last(self._commands_of, caller, self._pushed)

    # ------------------------------------------------------------------------------------------ who reads

    async def settle(self, caller: str | None = None) -> None:
        """Wait until what was accepted before is in the store; at once when it is.

        Args:
            caller: past a moment, only what this caller has had accepted is waited for; None: all is.

        Raises:
            Lagging: it is not, within the bound.
        """
        if not self._expected and self._written >= self._last_command:
            return
        last, mark = self._number, self._last_command

        def all_of_it() -> bool:
            return self._written >= mark and not _before(last, (each.number for each in self._expected.values()))

        if caller is None:
            await self._settle(all_of_it)
            return
        own_mark = self._commands_of.get(caller, 0)

        def own() -> bool:
            return self._written >= own_mark and not _before(last, self._expected_of.get(caller, {}).values())

        if self.waiting < _OTHERS and self.steady.stuck < _OTHERS:
            await self._wait(all_of_it, _OTHERS)
        await self._settle(own)

    async def settle_job(self, fluid: int) -> None:
        """Wait until what was accepted for one job is in the store; at once when it is.

        Raises:
            Lagging: it is not, within the bound.
        """
        mark = self._commands.get(fluid, 0)
        if fluid in self._expected or self._written < mark:
            await self._settle(lambda: fluid not in self._expected and self._written >= mark)

    async def _settle(self, done: Callable[[], bool]) -> None:
        if done():
            return
        began = time.monotonic()
        if self.steady.stuck <= STUCK:
            await self._wait(lambda: done() or self.steady.stuck > STUCK, BOUND)
        if not done():
            raise self._lagging("The answer would lack what was accepted before", time.monotonic() - began)

    @property
    def waiting(self) -> float:
        """For how long the first accepted job that is not stored has waited (seconds)."""
        return time.monotonic() - next(iter(self._expected.values())).since if self._expected else 0.0

    def _lagging(self, what: str, waited: float = 0.0) -> Lagging:
        """Return the error for what is not stored within the bound.

        Args:
            what: the consequence for the caller.
            waited: for how long the request has waited for something that was accepted before it (seconds).
        """
        lag = max(self.waiting, self.steady.stuck, waited)
        number = len(self._expected)
        behind = f"{number} accepted jobs are" if number else "the effects of accepted commands are"
        why = f": {self.steady.problem}" if self.steady.problem else "."
        return Lagging(
            f"{what}: {behind} not stored yet, after {lag:.1f} s{why}",
            lag=round(lag, 3),
            retry_after=min(_LONGEST_RETRY, max(1, math.ceil(lag / 2))),
        )

    # --------------------------------------------------------------------------------------- for the feed

    async def _until(self, predicate: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(predicate)

    async def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so, and no longer than that; return whether it is."""
        deadline = time.monotonic() + seconds
        while not (done() or self._leaving):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, _TICK)):
                    await self._until(lambda: done() or self._leaving)
            except TimeoutError:
                await self._look_up()
        return done()

    async def _look_up(self) -> None:
        """Find expected jobs that the store holds: the journal was told of them long before the submit was answered."""
        for fluid in list(self._expected)[:_LOOKED_UP]:
            try:
                if await self._jobs_stored.state(fluid) is not None:
                    self._heard(fluid)
            except StoreError:
                return

    def _heard(self, fluid: int) -> None:
        """Note that a job is in the store, or that the journal has nothing to say of it."""
        self.unended.forget(fluid)
        found = self._expected.pop(fluid, None)
        if found is None:
            self._recent[fluid] = None
            if len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
            return
        self._bytes -= found.size
        own = self._expected_of[found.caller]
        del own[fluid]
        if not own:
            del self._expected_of[found.caller]

    def _advance(self, written: int) -> None:
        """Note how many of the items that were pushed are in the store."""
        self._written = written
        _drop_first(self._commands, written)
        _drop_first(self._commands_of, written)

    def _give_up(self, last: int) -> None:
        """Expect no more what was accepted up to a number: a whole history has not told of it, or is another one's."""
        for fluid, each in list(self._expected.items()):
            if each.number > last:
                return
            self._heard(fluid)


def _before(last: int, numbers: Iterable[int]) -> bool:
    """Whether the first of some ascending numbers is no higher than another one."""
    return next(iter(numbers), last + 1) <= last


def _put_last(marks: dict[K, int], key: K, mark: int) -> None:
    """Set a mark that is no lower than the others; they stay in ascending order."""
    marks.pop(key, None)
    marks[key] = mark


def _drop_first(marks: dict[K, int], upto: int) -> None:
    """Drop the marks that are no higher than a number."""
    while marks and marks[key := next(iter(marks))] <= upto:
        del marks[key]
