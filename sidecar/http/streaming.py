"""Send long responses in chunks, while the caller is authorized.

:mod:`sidecar.http.send_watchdog` aborts the connections of readers that take nothing for too long.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from aiohttp import web

from sidecar.auth.guard import ADMISSION
from sidecar.http import compression
from sidecar.http.responses import start_response
from sidecar.http.whole import WholeResponse
from sidecar.runtime.budget import Budget, Reservation

_CHUNK = 64 * 1024
MAX_WHOLE = 256 * 1024
"""Bytes, about, up to which a response is sent as a whole."""
_IN_MEMORY = 4 * _CHUNK  # of a response in chunks: one is read, one is written, the connection buffers one


class Answers:
    """The budget of responses that are not sent yet.

    Args:
        budget: of all responses together.
        name: returns the key of a request's caller in the budget.
    """

    def __init__(self, budget: Budget, name: Callable[[web.Request], str]) -> None:
        self.budget = budget
        self.name = name


ANSWERS = web.AppKey("answers", Answers)
"""The budget of an application's responses."""


def hold(request: web.Request, size: int) -> Reservation:
    """Reserve the bytes of a response that is larger than a chunk.

    Raises:
        TooManyRequests: the caller has too many unsent bytes.
        Overloaded: all callers together have too many.
    """
    answers = request.app[ANSWERS]
    return answers.budget.reserve(answers.name(request), size if size > _CHUNK else 0)


async def stream_chunks(
    request: web.Request, chunks: AsyncIterator[bytes], headers: dict[str, str]
) -> web.StreamResponse:
    """Send a response in chunks; it counts as a stream of its caller.

    Raises:
        TooManyRequests: the caller has too many streams, or too many unsent bytes.
        Overloaded: all callers together have too many unsent bytes.
        Unauthenticated: the caller is no longer authorized; the response ends early.
        ConnectionError: the connection was lost, or aborted because its peer does not read.
    """
    response = web.StreamResponse(headers=headers)
    memory = _IN_MEMORY
    if compression.is_allowed(request):
        compression.mark(response)
        chunks, memory = compression.compressed(chunks), memory + compression.MEMORY
    with request[ADMISSION].as_stream(), hold(request, memory):
        await start_response(request, response)
        if request.method != "HEAD":
            async with request[ADMISSION].while_authorized():
                async for chunk in chunks:
                    await send(response, chunk)
            await response.write_eof()
    return response


async def whole_or_chunks(
    request: web.Request, chunks: AsyncIterator[bytes], headers: dict[str, str], *, short: bool = True
) -> web.StreamResponse:
    """Send a response as a whole if it is short, else in chunks.

    Args:
        request: the request.
        chunks: the body.
        headers: of the response, Content-Type included.
        short: False if the body is known to be long: it is sent while it is read.

    Raises:
        TooManyRequests, Overloaded, Unauthenticated, ConnectionError: see :func:`stream_chunks`.
    """
    read: list[bytes] = []
    size = 0
    while short and size <= MAX_WHOLE:
        chunk = await anext(chunks, None)
        if chunk is None:
            return WholeResponse(body=b"".join(read), headers=headers)
        read.append(chunk)
        size += len(chunk)
    return await stream_chunks(request, _chained(read, chunks), headers)


async def framed(
    chunks: AsyncIterator[bytes], separator: bytes, opening: bytes, closing: bytes
) -> AsyncIterator[bytes]:
    """Yield a list of chunks with a separator between them, and an opening and a closing.

    Chunks are not copied: data that a reader does not take stays in memory once, not twice.
    """
    before, end = opening, opening + closing if opening else b""
    async for chunk in chunks:
        if before:
            yield before
        yield chunk
        before, end = separator, closing
    if end:
        yield end


async def _chained(first: list[bytes], chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of a list, which is emptied, and then others."""
    while first:
        yield first.pop(0)
    async for chunk in chunks:
        yield chunk


async def send(response: web.StreamResponse, data: bytes | bytearray) -> None:
    """Write a part of a response's body.

    Raises:
        ConnectionError: the connection was lost, or aborted because its peer does not read.
    """
    if len(data) <= _CHUNK:
        await response.write(data)
        return
    view = memoryview(data)
    for first in range(0, len(data), _CHUNK):
        await response.write(view[first : first + _CHUNK])


async def in_chunks(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Compress a large complete response, and send it in chunks: aiohttp would copy all of it into its buffer.

    Raises:
        TooManyRequests: the caller has too many unsent bytes.
        Overloaded: all callers together have too many.
        ConnectionError: the connection was lost, or aborted because its peer does not read.
    """
    body = response.body if isinstance(response, web.Response) and not response.prepared else None
    if not isinstance(body, bytes) or len(body) < compression.SMALLEST:
        return response
    if compression.is_allowed(request):
        assert isinstance(response, web.Response)  # noqa: S101 - it has a body
        with hold(request, len(body)):
            await compression.compress_whole(response)
        body = response.body
        assert isinstance(body, bytes)  # noqa: S101 - compressed
    if len(body) <= _CHUNK or request.method == "HEAD":
        return response
    sent = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
    sent.content_length = len(body)
    with hold(request, len(body)):
        await start_response(request, sent)
        await send(sent, body)
        await sent.write_eof()
    return sent
