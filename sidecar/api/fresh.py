"""Read your writes for lists: wait for the caller's own commands, and report how far the journal lags."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from sidecar.auth.guard import caller_of
from sidecar.domain.errors import Lagging
from sidecar.http.responses import RESPONSE_HEADERS
from sidecar.journal.feed import Feed

LAG = "Flux-Journal-Lag"
"""How long an event has not been stored that a list may lack (seconds)."""
HISTORY = "Flux-History"
"""How many ended jobs a list may have, and how many the instance has, while the history is read."""
_REPORTED = 1.0  # seconds: a smaller lag is not reported
_BRIEFLY = 1.0  # seconds


async def settle(request: web.Request, feed: Feed) -> None:
    """Wait until a list reflects the caller's commands, and those of other callers if they are stored soon.

    Headers of the response say by how much the journal lags behind, and that jobs of the history are missing.

    Raises:
        Lagging: commands of the caller are not stored within the limit.
    """
    await feed.barrier.wait_visible(caller_of(request).name)
    if (lag := feed.lag) > _REPORTED:
        request[RESPONSE_HEADERS][LAG] = f"{lag:.3f}"
    if not feed.caught_up:
        progress = feed.history.progress
        request[RESPONSE_HEADERS][HISTORY] = f"read={progress.read}, total={progress.total}"


async def settle_briefly(request: web.Request, feed: Feed) -> None:
    """Wait as :func:`settle` does, for a second at most, for reads that must work while the store cannot be written."""
    with contextlib.suppress(Lagging, TimeoutError):
        async with asyncio.timeout(_BRIEFLY):
            await feed.barrier.wait_visible(caller_of(request).name)
