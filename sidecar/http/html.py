"""Pages that a browser shows: what they need comes from this server, and they say so."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from aiohttp import web

#: The policy of pages that load files of ours.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: What stands on pages of a server that was started with --no-auth.
NO_AUTH = (
    '<p role="alert">Every client that reaches this server has full access: it was started with '
    "<code>--no-auth</code>.</p>"
)


def relative_root(path: str) -> str:
    """Return the way from a path to the server's own root, which a proxy may have put below another."""
    return "../" * (path.count("/") - 1) or "./"


def response(
    text: str, *, policy: str = POLICY, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Answer with a page."""
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={**(headers or {}), "Content-Security-Policy": policy},
    )


def style_only(style: str) -> str:
    """Return the policy of a page that has this style in it and a form, and loads nothing."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
