"""Headers that every answer has, whichever part of the server gives it."""

from __future__ import annotations

from multidict import istr

#: On every answer that does not say otherwise: nothing here is to be framed, guessed at, or kept by others.
HEADERS: dict[str, str] = {
    istr("X-Content-Type-Options"): "nosniff",
    istr("X-Frame-Options"): "DENY",
    istr("Content-Security-Policy"): "default-src 'none'; frame-ancestors 'none'",
    istr("Referrer-Policy"): "same-origin",  # with less a browser says of our own forms that they come from nowhere
    istr("Cache-Control"): "no-store",
    istr("Server"): "flux-sidecar",  # and no versions: aiohttp would name its own, and Python's
}
