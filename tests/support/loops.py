"""What stand-ins that serve from a loop of their own have to know of asyncio."""

from __future__ import annotations

import asyncio


async def accept_all() -> None:
    """Let what has connected become connections of the server's, before its socket is closed.

    asyncio loses a connection that is accepted in one turn of the loop when the server is closed in the next: its
    transport cannot be made then, and its socket is never closed.
    """
    await turns(4)


async def turns(number: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(number):
        await asyncio.sleep(0)
