"""Long answers, sent piece by piece: to whom is let in, for as long as they take them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from sidecar.api.begun import begin
from sidecar.auth.guard import PLACE

SEND_TIMEOUT = web.AppKey("send_timeout", float)
"""For how many seconds whoever reads an answer may take nothing of it."""

_PIECE = 64 * 1024


async def stream_pieces(
    request: web.Request, pieces: AsyncIterator[bytes], headers: dict[str, str]
) -> web.StreamResponse:
    """Answer with what ``pieces`` yields, piece by piece.

    Raises:
        Unauthenticated: the caller is no longer let in; the answer ends there.
        ConnectionError: they have gone, or take nothing.
    """
    response = web.StreamResponse(headers=headers)
    await begin(request, response)
    if request.method != "HEAD":
        async with request[PLACE].held():
            async for piece in pieces:
                await send(request, response, piece)
        await response.write_eof()
    return response


async def send(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Write a part of an answer.

    Raises:
        ConnectionError: the reader has gone, or has taken nothing for too long.
    """
    for begin_ in range(0, len(data), _PIECE):
        try:
            async with asyncio.timeout(request.app[SEND_TIMEOUT]):
                await response.write(data[begin_ : begin_ + _PIECE])
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("nothing was read for too long") from None
