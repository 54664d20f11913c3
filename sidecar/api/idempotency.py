"""The header Idempotency-Key."""

from __future__ import annotations

from aiohttp import web

from sidecar.domain.errors import InvalidRequest

KEY = "Idempotency-Key"


def key_of(request: web.Request) -> str | None:
    """Return the key in a request's header; None where there is none.

    Raises:
        InvalidRequest: there are several: a proxy, or a repeated request, might go by another one.
    """
    keys = set(request.headers.getall(KEY, ()))
    if len(keys) > 1:
        raise InvalidRequest(f"{KEY}: it is there {len(keys)} times, with different values; send one.")
    return keys.pop() if keys else None
