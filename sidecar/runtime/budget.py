"""Bytes that may be held at once for callers: in all, and a quarter of that for each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType

from sidecar.domain.errors import Overloaded, TooManyRequests

_SHARE = 4  # one caller, or one address, may have this part of it


class Budget:
    """A number of bytes that are taken and given back.

    Args:
        most: how many may be taken, in all.
        what: what they are, for the text of the error.
        option: which option sets their number.
    """

    def __init__(self, most: int, what: str, option: str) -> None:
        self._most = most
        self._what = what
        self._option = option
        self._taken: Counter[str] = Counter()
        self._total = 0
        self._freed = asyncio.Event()

    @property
    def taken(self) -> int:
        """How many are taken now."""
        return self._total

    def hold(self, name: str, size: int = 0) -> Holding:
        """Take bytes for a caller, or an address; more can be taken later by :meth:`Holding.grow`.

        Args:
            name: for which one; empty where many callers have one name: then there is only the limit in all.
            size: how many.

        Raises:
            TooMany: this one has too many already.
            Overloaded: too many are taken in all.
        """
        holding = Holding(self, name)
        holding.grow(size)
        return holding

    def take(self, name: str, size: int, held: int = 0) -> None:
        """Take bytes beside those that are held for the same purpose; see :meth:`hold`."""
        if not self._fits(size, held):
            raise Overloaded(f"Too many bytes of {self._what} are held just now ({self._option}); ask again later.")
        if not self._fits_share(name, size, held):
            raise TooManyRequests(
                f"Too many bytes of your {self._what} are held just now (a quarter of {self._option})."
            )
        self.count(name, size)

    def count(self, name: str, size: int) -> None:
        """Take bytes that are there already, whether or not the limit allows for them."""
        self._taken[name] += size
        self._total += size

    def fits(self, name: str, size: int, held: int) -> bool:
        """Whether so many bytes may be taken; what is larger than the limit is let through alone."""
        return self._fits(size, held) and self._fits_share(name, size, held)

    async def room(self, name: str, size: int, held: int) -> None:
        """Wait until so many bytes may be taken."""
        while not self.fits(name, size, held):
            self._freed.clear()
            await self._freed.wait()

    def _fits(self, size: int, held: int) -> bool:
        return self._total <= held or self._total + size <= self._most

    def _fits_share(self, name: str, size: int, held: int) -> bool:
        return not name or self._taken[name] <= held or self._taken[name] + size <= self._most // _SHARE

    def give_back(self, name: str, size: int) -> None:
        """Undo :meth:`take`."""
        self._total -= size
        self._taken[name] -= size
        if self._taken[name] <= 0:
            del self._taken[name]
        self._freed.set()


class Holding:
    """Bytes that one request holds, until its context is left."""

    __slots__ = ("_budget", "_name", "size")

    def __init__(self, budget: Budget, name: str) -> None:
        self._budget = budget
        self._name = name
        self.size = 0

    def grow(self, size: int) -> None:
        """Take more bytes; see :meth:`Budget.hold`."""
        if size:
            self._budget.take(self._name, size, self.size)
            self.size += size

    def resize(self, size: int) -> None:
        """Hold so many bytes from now on; see :meth:`Budget.hold`."""
        if size > self.size:
            self.grow(size - self.size)
        else:
            self._shrink(size)

    def count(self, size: int) -> None:
        """Hold so many bytes, which are there already, from now on: whether or not the limit allows for them."""
        if size > self.size:
            self._budget.count(self._name, size - self.size)
            self.size = size
        else:
            self._shrink(size)

    def fits(self, size: int) -> bool:
        """Whether so many bytes, in all, may be held; always where they are no more than now."""
        return size <= self.size or self._budget.fits(self._name, size - self.size, self.size)

    async def room(self, size: int) -> None:
        """Wait until so many bytes, in all, may be held."""
        if size > self.size:
            await self._budget.room(self._name, size - self.size, self.size)

    @property
    def over(self) -> bool:
        """Whether more is held than the limit allows for, by all or by this one's caller."""
        return not self._budget.fits(self._name, 0, self.size)

    def _shrink(self, size: int) -> None:
        if size < self.size:
            self._budget.give_back(self._name, self.size - size)
            self.size = size

    def close(self) -> None:
        """Give all of them back."""
        self._shrink(0)

    def __enter__(self) -> Holding:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
