"""Positions in the event log as clients see them: the ID of the store and a number."""

from __future__ import annotations

import re

from aiohttp import web

from sidecar.domain.errors import InvalidRequest
from sidecar.store import Store

HEADER = "Flux-Events-Position"
_POSITION = re.compile(r"([0-9a-f]{8})-(\d{1,18})")


def format_event_id(store: Store, position: int) -> str:
    """Return the text that a client sends as ``after`` or ``Last-Event-ID`` to continue at a position."""
    return f"{store.id}-{position}"


def requested_event_id(request: web.Request, store: Store, after: str | None) -> int | None:
    """Return the position after which a client wants to read; None when the request has none.

    Last-Event-ID takes precedence over ``after``: a browser that reconnects still sends the address of its first
    request.

    Raises:
        InvalidRequest: the position is not one of this store.
    """
    for name, text in (("Last-Event-ID", request.headers.get("Last-Event-ID")), ("after", after)):
        if text:
            return _parse(name, text, store)
    return None


def removed(store: Store) -> str:
    """Return the text for a reader that misses events, because they were removed with their jobs."""
    return (
        f"Events up to {format_event_id(store, store.gone.position)} were removed with their jobs (--keep-jobs, "
        "--keep-for, --min-free-disk). Use 0 for the first event that is kept, or the position of GET /v1/jobs."
    )


def _parse(name: str, text: str, store: Store) -> int:
    if text == "0":
        return 0
    match = _POSITION.fullmatch(text)
    if match and match[1] == store.id and int(match[2]) <= store.position:
        return int(match[2])
    other = match is not None and match[1] != store.id
    why = "belongs to another instance or store" if other else "is not a position of this server"
    raise InvalidRequest(
        f"{name}: {text[:80]!r} {why}; use 0 (from the first event), or {format_event_id(store, 0)} to "
        f"{format_event_id(store, store.position)}. GET /v1/jobs returns the position of its list."
    )
