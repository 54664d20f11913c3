"""HTML responses; their content security policies allow files of this server only."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping

from aiohttp import web

#: Policy of pages that load files of this server.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

#: Notice on the pages of a server that was started with --no-auth.
NO_AUTH = (
    '<p role="alert">Every client that reaches this server has full access: it was started with '
    "<code>--no-auth</code>.</p>"
)


def relative_root(path: str) -> str:
    """Return the relative address of the server's root, which may be behind a proxy's prefix, from a path."""
    return "../" * (path.count("/") - 1) or "./"


def response(
    text: str, *, policy: str = POLICY, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a page."""
    return web.Response(
        text=text,
        status=status,
        content_type="text/html",
        charset="utf-8",
        headers={**(headers or {}), "Content-Security-Policy": policy},
    )


def style_only(style: str) -> str:
    """Return the policy of a page with this inline style and a form, which loads nothing."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
