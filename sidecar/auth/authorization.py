"""Read the credential headers, and make the error for a credential that is not accepted."""

from __future__ import annotations

import base64
import binascii

from aiohttp import hdrs, web
from multidict import istr

from sidecar.auth.caller import Credential
from sidecar.domain.errors import Unauthenticated

X_TOKEN = istr("X-Token")
"""Header with a bearer token, for clients that cannot set Authorization; read only if that header is absent."""

_CHALLENGE = 'Bearer realm="flux-sidecar"'


def read_authorization(request: web.Request) -> Credential | None:
    """Return the credential in the Authorization header, or else in :data:`X_TOKEN`; None without both headers.

    Raises:
        Unauthenticated: a header is repeated, X-Token is empty, or the scheme of Authorization is not supported.
    """
    header = _only(request, hdrs.AUTHORIZATION)
    if header is None:
        return _read_token(request)
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return Credential("bearer", value)
    if scheme.lower() == "basic":
        try:
            name, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            colon = ""
        if colon:
            return Credential("password", password, name)
    raise unauthenticated("Authorization: send Bearer X_TOKEN (or Basic, where there is a password).")


def has_credential_header(request: web.Request) -> bool:
    """Whether a request has a header that :func:`read_authorization` reads."""
    return hdrs.AUTHORIZATION in request.headers or X_TOKEN in request.headers


def _read_token(request: web.Request) -> Credential | None:
    token = _only(request, X_TOKEN)
    if token is None:
        return None
    if not token.strip():
        raise unauthenticated("X-Token: it is empty; send the token, or leave the header out.")
    return Credential("bearer", token.strip())


def _only(request: web.Request, name: str) -> str | None:
    """Return the only header of a name; None without one."""
    headers = request.headers.getall(name, ())
    if len(headers) > 1:  # a proxy may have checked the other one
        raise unauthenticated(f"{name}: send it once.")
    return headers[0] if headers else None


def unauthenticated(detail: str, error: str = "") -> Unauthenticated:
    """Return the error with its WWW-Authenticate challenge."""
    # Bearer only: for Basic, browsers open a login dialog.
    return Unauthenticated(detail, headers={hdrs.WWW_AUTHENTICATE: _CHALLENGE + error})
