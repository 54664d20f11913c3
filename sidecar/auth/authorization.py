"""Read the header Authorization, and make the error for a credential that is not accepted."""

from __future__ import annotations

import base64
import binascii

from aiohttp import hdrs, web

from sidecar.auth.caller import Credential
from sidecar.domain.errors import Unauthenticated

_CHALLENGE = 'Bearer realm="flux-sidecar"'


def read_authorization(request: web.Request) -> Credential | None:
    """Read the header Authorization.

    Raises:
        Unauthenticated: it is of a kind that is not read here.
    """
    headers = request.headers.getall(hdrs.AUTHORIZATION, ())
    if not headers:
        return None
    if len(headers) > 1:  # a proxy might have looked at the other one
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
    """Make the error, with the challenge that goes with it."""
    # Bearer alone: for Basic a browser would open a dialog of its own.
    return Unauthenticated(detail, headers={hdrs.WWW_AUTHENTICATE: _CHALLENGE + error})
