"""Bytes that are incomplete yet, stored once for all positions of a log between their start and their end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

_PART = 1024  # bytes; a smaller part is copied when it grows
_COST = 200  # memory of a part in bytes, in addition to its data


class Part:
    """Bytes, and the part before them.

    A part is immutable, so that the states of a log before and after a chunk share everything that the chunk has not
    added: a line of a megabyte that grows byte by byte is stored once, not once for each byte.
    """

    __slots__ = ("_digest", "before", "data", "holders", "size")

    def __init__(self, before: Part | None, data: bytes) -> None:
        self.before = before
        self.data = data
        self.size: int = len(data) + (before.size if before else 0)
        """Bytes from the start."""
        self.holders = 0
        """Number of references: from cached segments, and from referenced parts that follow."""
        self._digest = b""

    def plus(self, data: bytes) -> Part:
        """Return a part with more bytes."""
        if len(self.data) < _PART:
            return Part(self.before, self.data + data)
        return Part(self, data)

    def whole(self) -> bytes:
        """Return all bytes from the start."""
        if self.before is None:
            return self.data
        return b"".join(reversed([part.data for part in self.chain()]))

    def behind(self, size: int) -> bytes:
        """Return the bytes after the first ``size``, without a copy of those before."""
        pieces = []
        for part in self.chain():
            if part.size <= size:
                break
            first = part.size - len(part.data)
            pieces.append(part.data[max(0, size - first) :])
        return b"".join(reversed(pieces))

    def digest(self, name: str) -> bytes:
        """Return a digest of a name and all bytes; parts with a known digest are not read again."""
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
        """Memory in bytes, without the parts before."""
        return len(self.data) + _COST

    def chain(self) -> Iterator[Part]:
        """Yield the parts, from the last one."""
        part: Part | None = self
        while part is not None:
            yield part
            part = part.before


def hold(parts: Iterable[Part]) -> int:
    """Add a reference to each part; return the memory in bytes that is newly in use."""
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
    """Remove a reference from each part; return the memory in bytes that is no longer in use."""
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
