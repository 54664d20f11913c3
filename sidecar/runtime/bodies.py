"""Bodies of answers that this server gets from others: read up to a bound, whatever a server has to send."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp

#: Sent with each request, beside ``auto_decompress=False``: a small answer stays small.
UNCOMPRESSED: Mapping[str, str] = {"Accept-Encoding": "identity"}


class TooLarge(ValueError):
    """The body is larger than it may be."""


async def read(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body of an answer.

    Args:
        response: whose session was made with ``auto_decompress=False``.
        most: bytes that it may have.

    Raises:
        TooLarge: it has more.
    """
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most:
            raise TooLarge(f"{response.url} is larger than {most} bytes")
    return bytes(body)
