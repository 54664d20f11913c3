"""How much of a long request is on its way into Flux at once: much where Flux is quick, little where it is not.

Flux takes jobs in batches, and is the quicker the more it is sent at once. What has been sent is ahead of everybody
else's requests, though, and must be answered before its own time-out: so it is kept to what Flux does in a moment.
"""

from __future__ import annotations

import asyncio

_FIRST = 256
_LEAST = 16
_QUICK, _SLOW = 1.0, 2.0  # seconds from in to out


class Window:
    """Lets so many in at once, and finds out how many that should be.

    Args:
        most: how many at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.size = min(most, _FIRST)
        self._inside = 0
        self._free = asyncio.Event()

    async def enter(self) -> None:
        """Wait for a place."""
        while self._inside >= self.size:
            self._free.clear()
            await self._free.wait()
        self._inside += 1

    def leave(self, seconds: float) -> None:
        """Give a place back, and tell how long it was taken."""
        self._inside -= 1
        if seconds < _QUICK:
            self.size = min(self._most, self.size + 1)
        elif seconds > _SLOW:
            self.size = max(min(self._most, _LEAST), self.size - 1)
        if self._inside < self.size:
            self._free.set()
