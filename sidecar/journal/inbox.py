"""Queue of the journal items that the feed has received and not processed yet."""

from __future__ import annotations

import asyncio
from collections import deque
from itertools import islice

import msgspec

from sidecar.domain.model import JobEvents, JournalBegin

_encode = msgspec.json.Encoder().encode
_UNIT = 16 * 1024  # bytes that weigh as much as one journal response
_UNKNOWN_SIZE = 64 * 1024


class Inbox:
    """First-in, first-out queue that knows the size of its items."""

    def __init__(self) -> None:
        self._items: deque[tuple[JournalBegin | JobEvents, int]] = deque()
        self._bytes = 0
        self.received = 0
        """Number of items pushed so far."""
        self.available = asyncio.Event()

    def __len__(self) -> int:
        return len(self._items)

    @property
    def weight(self) -> int:
        """Number of queued items, where a large one counts as several."""
        return max(len(self._items), self._bytes // _UNIT)

    @property
    def taken(self) -> int:
        """Number of items taken so far."""
        return self.received - len(self._items)

    @property
    def oldest_timestamp(self) -> float:
        """Timestamp of the first queued event (Unix seconds); 0 without one."""
        if self._items and isinstance(first := self._items[0][0], JobEvents) and first.events:
            return first.events[0].timestamp
        return 0.0

    def next_jobids(self, limit: int) -> list[int]:
        """Return the jobs of the first items."""
        return [item.id for item, _ in islice(self._items, limit) if isinstance(item, JobEvents)]

    def push(self, item: JournalBegin | JobEvents) -> None:
        """Append an item."""
        size = _size(item) if isinstance(item, JobEvents) else 0
        self._items.append((item, size))
        self._bytes += size
        self.received += 1
        self.available.set()

    def take(self) -> tuple[JournalBegin | JobEvents, int]:
        """Remove the first item; return it and its size in bytes."""
        item, size = self._items.popleft()
        self._bytes -= size
        return item, size


def _size(item: JobEvents) -> int:
    """Return the approximate size of an item in bytes."""
    try:
        return len(_encode(item))
    except (ValueError, TypeError, OverflowError, RecursionError):  # reported when the item is folded
        return _UNKNOWN_SIZE
