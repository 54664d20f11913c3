"""Send long answers piece by piece, for as long as the caller is authorized and reads them.

How long a reader may take nothing is watched for every connection (:mod:`sidecar.connection`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from sidecar.auth.guard import ADMISSION
from sidecar.http.responses import start_response
from sidecar.runtime.budget import Budget, Reservation

_PIECE = 64 * 1024
SHORT = 256 * 1024
"""Bytes of an answer that is sent as one, about."""
_HELD = 4 * _PIECE  # what an answer in pieces holds: one that is read, one that is sent, one in the connection


class Answers:
    """The budget of answers that are not sent yet.

    Args:
        budget: of all answers together.
        name: says whose a request's answer is.
    """

    def __init__(self, budget: Budget, name: Callable[[web.Request], str]) -> None:
        self.budget = budget
        self.name = name


ANSWERS = web.AppKey("answers", Answers)
"""The budget of an application's answers."""


def hold(request: web.Request, size: int) -> Reservation:
    """Take what is about to be sent from the budget of answers, where it is more than a piece.

    Raises:
        TooMany: too much waits to be read by this caller.
        Overloaded: too much waits to be read by all callers.
    """
    answers = request.app[ANSWERS]
    return answers.budget.reserve(answers.name(request), size if size > _PIECE else 0)


async def stream_chunks(
    request: web.Request, pieces: AsyncIterator[bytes], headers: dict[str, str]
) -> web.StreamResponse:
    """Answer with what ``pieces`` yields, piece by piece; such an answer counts as a stream of its caller.

    Raises:
        TooMany: this caller follows too many streams, or too much waits to be read by them.
        Overloaded: too much waits to be read by all callers.
        Unauthenticated: the caller is no longer let in; the answer ends there.
        ConnectionError: the connection was lost, or nothing was read for too long.
    """
    response = web.StreamResponse(headers=headers)
    with request[ADMISSION].as_stream(), hold(request, _HELD):
        await start_response(request, response)
        if request.method != "HEAD":
            async with request[ADMISSION].while_authorized():
                async for piece in pieces:
                    await send(response, piece)
            await response.write_eof()
    return response


async def whole_or_chunks(
    request: web.Request, pieces: AsyncIterator[bytes], headers: dict[str, str], *, short: bool = True
) -> web.StreamResponse:
    """Answer with what ``pieces`` yields: as one body where that is short, else piece by piece.

    Args:
        request: what is answered.
        pieces: the body.
        headers: with its type.
        short: whether it may be short; where it is known that it is not, it is sent as it is read.

    Raises:
        TooMany, Overloaded, Unauthenticated, ConnectionError: see :func:`stream_chunks`.
    """
    found: list[bytes] = []
    size = 0
    while short and size <= SHORT:
        piece = await anext(pieces, None)
        if piece is None:
            return web.Response(body=b"".join(found), headers=headers)
        found.append(piece)
        size += len(piece)
    return await stream_chunks(request, _chained(found, pieces), headers)


async def framed(
    pieces: AsyncIterator[bytes], separator: bytes, opening: bytes, closing: bytes
) -> AsyncIterator[bytes]:
    """Yield a list that is put together from pieces, with something between two of them and around all.

    Nothing is copied: what a reader does not take is kept, and should be kept once.
    """
    before, end = opening, opening + closing if opening else b""
    async for piece in pieces:
        if before:
            yield before
        yield piece
        before, end = separator, closing
    if end:
        yield end


async def _chained(first: list[bytes], pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while first:
        yield first.pop(0)
    async for piece in pieces:
        yield piece


async def send(response: web.StreamResponse, data: bytes | bytearray) -> None:
    """Write a part of an answer.

    Raises:
        ConnectionError: the connection was lost, or nothing was read for too long.
    """
    if len(data) <= _PIECE:
        await response.write(data)
        return
    view = memoryview(data)
    for first in range(0, len(data), _PIECE):
        await response.write(view[first : first + _PIECE])


async def in_chunks(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Send an answer that is whole and large in pieces: aiohttp would copy all of it into the connection's buffer.

    Raises:
        TooMany: too much waits to be read by this caller.
        Overloaded: too much waits to be read by all callers.
        ConnectionError: the connection was lost, or nothing was read for too long.
    """
    body = response.body if isinstance(response, web.Response) and not response.prepared else None
    if not isinstance(body, bytes) or len(body) <= _PIECE or request.method == "HEAD":
        return response
    sent = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    sent.content_length = len(body)
    with hold(request, len(body)):
        await start_response(request, sent)
        await send(sent, body)
        await sent.write_eof()
    return sent
