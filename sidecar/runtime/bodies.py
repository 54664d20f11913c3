"""Read response bodies from other servers, up to a size limit."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

#: Headers of each request, for a session with ``auto_decompress=False``: a small response must not expand.
UNCOMPRESSED: Mapping[str, str] = {"Accept-Encoding": "identity"}


class TooLarge(ValueError):
    """The body exceeds the limit."""


async def read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body of a response.

    Args:
        response: from a session with ``auto_decompress=False``.
        limit: maximum size in bytes.

    Raises:
        TooLarge: the body exceeds the limit.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise TooLarge(f"{response.url} is larger than {limit} bytes")
    return bytes(body)
