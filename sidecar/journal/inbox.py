"""What the instance has told and the feed has not worked on yet, with its size."""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from sidecar.domain.model import HistoryBegin, JobEvents

_encode = msgspec.json.Encoder().encode
_UNIT = 16 * 1024  # bytes that weigh as much as one response of the journal
_UNKNOWN = 64 * 1024


class Inbox:
    """Items in the order in which they came."""

    def __init__(self) -> None:
        self._items: deque[tuple[HistoryBegin | JobEvents, int]] = deque()
        self._bytes = 0
        self.pushed = 0
        """How many items have come so far."""
        self.arrived = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def weight(self) -> int:
        """How many items wait; large ones count as several."""
        return max(len(self._items), self._bytes // _UNIT)

    @property
    def taken(self) -> int:
        """How many items were taken out so far."""
        return self.pushed - len(self._items)

    @property
    def oldest(self) -> float:
        """When the first event that waits has happened (Unix seconds); 0 when none waits."""
        if self._items and isinstance(first := self._items[0][0], JobEvents) and first.events:
            return first.events[0].timestamp
        return 0.0

    def push(self, item: HistoryBegin | JobEvents) -> None:
        """Take an item in."""
        size = _size(item) if isinstance(item, JobEvents) else 0
        self._items.append((item, size))
        self._bytes += size
        self.pushed += 1
        self.arrived.set()

    def take(self) -> tuple[HistoryBegin | JobEvents, int]:
        """Take the first item out; return it and its size in bytes."""
        item, size = self._items.popleft()
        self._bytes -= size
        return item, size


def _size(item: JobEvents) -> int:
    """How many bytes an item has, about."""
    try:
        return len(_encode(item))
    except (
        ValueError,
        TypeError,
        OverflowError,
        RecursionError,
    ):  # of what kind it is, is found out where it is folded
        return _UNKNOWN
