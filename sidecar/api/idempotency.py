"""The header Idempotency-Key."""

from __future__ import annotations

from aiohttp import web

from sidecar.domain.errors import InvalidRequest

KEY = "Idempotency-Key"


def key_of(request: web.Request) -> str | None:
    """Return the idempotency key of a request; None when it has none.

    Raises:
        InvalidRequest: the header occurs several times with different values; a proxy or a retry might use another one.
    """
    keys = set(request.headers.getall(KEY, ()))
    if len(keys) > 1:
        raise InvalidRequest(f"{KEY}: sent {len(keys)} times with different values; send one.")
    return keys.pop() if keys else None
