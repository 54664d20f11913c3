"""Workarounds for asyncio in fake servers with their own event loop."""

from __future__ import annotations

import asyncio


async def accept_all() -> None:
    """Accept all pending connections before the server's socket is closed.

    asyncio loses a connection that is accepted in one iteration of the loop if the server is closed in the next: its
    transport cannot be created then, and its socket is never closed.
    """
    await turns(4)


async def turns(number: int) -> None:
    """Run a number of iterations of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)
