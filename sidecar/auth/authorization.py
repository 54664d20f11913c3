"""Read the Authorization header, and make the error for a credential that is not accepted."""

from __future__ import annotations

import base64
import binascii

from aiohttp import hdrs, web

from sidecar.auth.caller import Credential
from sidecar.domain.errors import Unauthenticated

_CHALLENGE = 'Bearer realm="flux-sidecar"'


def read_authorization(request: web.Request) -> Credential | None:
    """Return the credential in the Authorization header; None without the header.

    Raises:
        Unauthenticated: the header is repeated, or its scheme is not supported.
    """
    headers = request.headers.getall(hdrs.AUTHORIZATION, ())
    if not headers:
        return None
    if len(headers) > 1:  # a proxy may have checked the other one
        raise unauthenticated("Authorization: send it once.")
    header = headers[0]
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
    raise unauthenticated("Authorization: send Bearer TOKEN (or Basic, where there is a password).")


def unauthenticated(detail: str, error: str = "") -> Unauthenticated:
    """Return the error with its WWW-Authenticate challenge."""
    # Bearer only: for Basic, browsers open a login dialog.
    return Unauthenticated(detail, headers={hdrs.WWW_AUTHENTICATE: _CHALLENGE + error})
