"""Bytes that are begun and not complete, kept once for all places of a log between their beginning and their end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

_PART = 1024  # bytes from which on a part is not copied to make it longer
_COST = 200  # bytes that a part costs beside its own


class Part:
    """Some bytes, and the part that they follow.

    A part never changes, so that the states of a log before and behind a piece share all that the piece has not added:
    a line of a megabyte that grows by a byte at a time is kept once, not once for each byte.
    """

    __slots__ = ("_digest", "before", "data", "holders", "size")

    def __init__(self, before: Part | None, data: bytes) -> None:
        self.before = before
        self.data = data
        self.size: int = len(data) + (before.size if before else 0)
        """Bytes from the beginning."""
        self.holders = 0
        """How many hold it: segments that are kept, and parts that are held and follow it."""
        self._digest = b""

    def plus(self, data: bytes) -> Part:
        """Return these bytes and more."""
        if len(self.data) < _PART:
            return Part(self.before, self.data + data)
        return Part(self, data)

    def whole(self) -> bytes:
        """Return all bytes from the beginning."""
        if self.before is None:
            return self.data
        return b"".join(reversed([part.data for part in self.chain()]))

    def behind(self, size: int) -> bytes:
        """Return the bytes behind so many, without copying those before."""
        found = []
        for part in self.chain():
            if part.size <= size:
                break
            first = part.size - len(part.data)
            found.append(part.data[max(0, size - first) :])
        return b"".join(reversed(found))

    def digest(self, name: str) -> bytes:
        """Return a digest of all bytes, and of a name for them; of what was digested before it costs nothing."""
        if self._digest:
            return self._digest
        new, known = [], b""
        for part in self.chain():
            if part._digest:
                known = part._digest
                break
            new.append(part)
        known = known or hashlib.blake2b(name.encode(errors="replace"), digest_size=16).digest()
        for part in reversed(new):
            known = part._digest = hashlib.blake2b(part.data, digest_size=16, key=known).digest()
        return known

    @property
    def cost(self) -> int:
        """Bytes in memory, without the parts before."""
        return len(self.data) + _COST

    def chain(self) -> Iterator[Part]:
        """Yield the parts, the last one first."""
        part: Part | None = self
        while part is not None:
            yield part
            part = part.before


def hold(parts: Iterable[Part]) -> int:
    """Count one more holder of some parts; return how many bytes are kept that were not before."""
    added = 0
    for each in parts:
        part: Part | None = each
        while part is not None:
            part.holders += 1
            if part.holders > 1:
                break
            added += part.cost
            part = part.before
    return added


def release(parts: Iterable[Part]) -> int:
    """Count one holder less of some parts; return how many bytes are no longer kept."""
    freed = 0
    for each in parts:
        part: Part | None = each
        while part is not None:
            part.holders -= 1
            if part.holders:
                break
            freed += part.cost
            part = part.before
    return freed
