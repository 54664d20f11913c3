"""Headers of every response."""

from __future__ import annotations

from multidict import istr

#: Defaults: no response may be framed, sniffed or cached by others.
HEADERS: dict[str, str] = {
    istr("X-Content-Type-Options"): "nosniff",
    istr("X-Frame-Options"): "DENY",
    istr("Content-Security-Policy"): "default-src 'none'; frame-ancestors 'none'",
    istr("Referrer-Policy"): "same-origin",  # "no-referrer" would have browsers send our own forms with Origin: null
    istr("Cache-Control"): "no-store",
    istr("Server"): "flux-sidecar",  # without the versions of aiohttp and Python
}
