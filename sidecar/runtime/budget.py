"""A memory budget in bytes: a limit in total, and a quarter of it for each caller."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType

from sidecar.domain.errors import Overloaded, TooManyRequests

_SHARE = 4  # a caller, or an address, may use 1/4


class Budget:
    """A limited number of bytes.

    Args:
        limit: bytes in total.
        what: what the bytes are used for, for the error.
        option: the option that sets the limit.
    """

    def __init__(self, limit: int, what: str, option: str) -> None:
        self._limit = limit
        self._what = what
        self._option = option
        self._used: Counter[str] = Counter()
        self._total = 0
        self._freed = asyncio.Event()

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self._total

    def reserve(self, name: str, size: int = 0) -> Reservation:
        """Reserve bytes for a caller or an address; :meth:`Reservation.grow` reserves more.

        Args:
            name: caller or address; empty: only the total limit applies, because several callers share the name.
            size: bytes.

        Raises:
            TooManyRequests: the caller would exceed its share.
            Overloaded: the total limit would be exceeded.
        """
        reservation = Reservation(self, name)
        reservation.grow(size)
        return reservation

    def acquire(self, name: str, size: int, reserved: int = 0) -> None:
        """Use more bytes in addition to ``reserved`` ones of the same reservation; see :meth:`reserve`."""
        if not self._fits(size, reserved):
            raise Overloaded(f"Too many bytes of {self._what} are in use ({self._option}); retry later.")
        if not self._fits_share(name, size, reserved):
            raise TooManyRequests(f"Too many bytes of your {self._what} are in use (a quarter of {self._option}).")
        self.add(name, size)

    def add(self, name: str, size: int) -> None:
        """Use bytes that are already allocated, even if they exceed the limit."""
        self._used[name] += size
        self._total += size

    def fits(self, name: str, size: int, reserved: int) -> bool:
        """Whether so many bytes are available. A reservation larger than the limit is allowed while it is alone."""
        return self._fits(size, reserved) and self._fits_share(name, size, reserved)

    async def wait(self, name: str, size: int, reserved: int) -> None:
        """Wait until so many bytes are available."""
        while not self.fits(name, size, reserved):
            self._freed.clear()
            await self._freed.wait()

    def _fits(self, size: int, reserved: int) -> bool:
        return self._total <= reserved or self._total + size <= self._limit

    def _fits_share(self, name: str, size: int, reserved: int) -> bool:
        return not name or self._used[name] <= reserved or self._used[name] + size <= self._limit // _SHARE

    def release(self, name: str, size: int) -> None:
        """Free bytes."""
        self._total -= size
        self._used[name] -= size
        if self._used[name] <= 0:
            del self._used[name]
        self._freed.set()


class Reservation:
    """Bytes of one request, a context manager that frees them."""

    __slots__ = ("_budget", "_name", "size")

    def __init__(self, budget: Budget, name: str) -> None:
        self._budget = budget
        self._name = name
        self.size = 0

    def grow(self, size: int) -> None:
        """Reserve more bytes; see :meth:`Budget.reserve`."""
        if size:
            self._budget.acquire(self._name, size, self.size)
            self.size += size

    def resize(self, size: int) -> None:
        """Change the size to ``size`` bytes; see :meth:`Budget.reserve`."""
        if size > self.size:
            self.grow(size - self.size)
        else:
            self._shrink(size)

    def force(self, size: int) -> None:
        """Change the size to ``size`` bytes that are already allocated, even if they exceed the limit."""
        if size > self.size:
            self._budget.add(self._name, size - self.size)
            self.size = size
        else:
            self._shrink(size)

    def fits(self, size: int) -> bool:
        """Whether the reservation can have ``size`` bytes; it can always shrink."""
        return size <= self.size or self._budget.fits(self._name, size - self.size, self.size)

    async def wait(self, size: int) -> None:
        """Wait until the reservation can have ``size`` bytes."""
        if size > self.size:
            await self._budget.wait(self._name, size - self.size, self.size)

    @property
    def exceeded(self) -> bool:
        """Whether the limit, or that of the caller, is exceeded."""
        return not self._budget.fits(self._name, 0, self.size)

    def _shrink(self, size: int) -> None:
        if size < self.size:
            self._budget.release(self._name, self.size - size)
            self.size = size

    def close(self) -> None:
        """Free all bytes."""
        self._shrink(0)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
