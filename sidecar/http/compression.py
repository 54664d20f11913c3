"""Compress large answers of operations that allow it (gzip, RFC 9110, section 8.4).

An operation allows it by ``compress=True``. Those are reads of jobs and metrics: a caller that can put text into
such an answer can read all of it. Nothing else is compressed, in particular no answer with a token and no page with a
form: the size of a compressed answer tells how much of a chosen text is in it (BREACH). Event streams are not
compressed either: each event would have to be flushed on its own, which takes most of the gain, and each stream would
take a quarter of a megabyte.

The level is 1: on lists of jobs it takes half the time of level 6, and the result (a tenth of the list) is an eighth
larger. Small answers are sent as they are: compression would take as long as all else of the request. Large ones are
compressed in threads; zlib releases the GIL meanwhile.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from aiohttp import hdrs, web

from sidecar.http.negotiation import accepts_gzip
from sidecar.http.operations import OPERATION

SMALLEST = 32 * 1024
"""Bytes from which on an answer is compressed."""
MEMORY = 272 * 1024
"""Bytes that compression in chunks takes (deflateInit2 of zlib, with the largest window)."""

_INLINE = 128 * 1024  # bytes that are compressed on the event loop: about a millisecond
_LEVEL, _GZIP = 1, 16 + zlib.MAX_WBITS


def is_allowed(request: web.Request) -> bool:
    """Whether an answer may be compressed: its operation allows it, and the client accepts it."""
    op = request.get(OPERATION)
    return op is not None and op.compress and accepts_gzip(request)


async def compress_whole(response: web.Response) -> None:
    """Compress the body of a response, if it has none of the codings yet."""
    body = response.body
    if isinstance(body, bytes) and hdrs.CONTENT_ENCODING not in response.headers:
        compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        response.body = await _run(compressor, body) + compressor.flush()
        mark(response)


def mark(response: web.StreamResponse) -> None:
    """Declare that the body of a response is compressed."""
    response.headers[hdrs.CONTENT_ENCODING] = "gzip"


async def compressed(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the compressed form of a body in chunks."""
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    async for chunk in chunks:
        if data := await _run(compressor, chunk):
            yield data
    yield compressor.flush()


async def _run(compressor: zlib._Compress, data: bytes) -> bytes:
    if len(data) <= _INLINE:
        return compressor.compress(data)
    return await asyncio.to_thread(compressor.compress, data)
