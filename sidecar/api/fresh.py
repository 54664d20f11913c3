"""Lists that know of what their reader has done before, and say how far they lag behind the rest."""

from __future__ import annotations

import asyncio
import contextlib

from aiohttp import web

from sidecar.auth.guard import caller_of
from sidecar.domain.errors import Lagging
from sidecar.http.responses import RESPONSE_HEADERS
from sidecar.journal.feed import Feed

LAG = "Flux-Journal-Lag"
"""For how many seconds something that has happened has not been stored, where a list may lack it."""
_TOLD = 1.0
_MOMENT = 1.0


async def settle(request: web.Request, feed: Feed) -> None:
    """Wait until a list holds what its reader has had accepted, and what others have, if that takes no longer.

    Raises:
        Lagging: what the reader has had accepted is not stored within the bound.
    """
    await feed.barrier.wait_visible(caller_of(request).name)
    if (lag := feed.lag) > _TOLD:
        request[RESPONSE_HEADERS][LAG] = f"{lag:.3f}"


async def settle_for_a_moment(request: web.Request, feed: Feed) -> None:
    """Wait as :func:`settle` does, but only for a moment: for what has to be answered while nothing can be stored."""
    with contextlib.suppress(Lagging, TimeoutError):
        async with asyncio.timeout(_MOMENT):
            await feed.barrier.wait_visible(caller_of(request).name)
