"""Access tokens that this server issues after a login with a password, and the signed login of flux-restful-client."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
import warnings
from collections.abc import Callable
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OctKey

from sidecar.auth.caller import Credential

_ALGORITHM = "HS256"
_ISSUER = "flux-sidecar"
_LONGEST = 4096  # characters of a token


class AccessTokens:
    """Sign and verify access tokens. Each user has a key, which changes with the password.

    Args:
        lifetime: of a token, in seconds.
        now: returns the Unix time.
    """

    def __init__(self, lifetime: float, now: Callable[[], float] = time.time) -> None:
        self.lifetime = lifetime
        self._now = now

    def issue(self, user: str, key: OctKey) -> str:
        """Return a new token of a user."""
        now = int(self._now())
        claims = {"iss": _ISSUER, "sub": user, "iat": now, "exp": now + int(self.lifetime)}
        return str(jwt.encode({"alg": _ALGORITHM}, claims, key))

    def expiry(self, token: str, user: str, key: OctKey) -> float | None:
        """Return when a token of a user expires, in Unix seconds; None if it is not valid."""
        claims = _claims(token, key)
        if claims.get("iss") != _ISSUER or claims.get("sub") != user:
            return None
        expires = claims.get("exp")
        return float(expires) if isinstance(expires, int | float) and expires > self._now() else None


class SharedSecret:
    """The secret with which flux-restful-client signs its login.

    Args:
        secret: not empty.
        now: returns the Unix time.
    """

    def __init__(self, secret: str, now: Callable[[], float] = time.time) -> None:
        self._key = _import(secret.encode())
        self._now = now

    def password_of(self, token: str) -> Credential | None:
        """Return name and password of a JWT with ``user``, ``pass`` and ``scope``; None if the JWT is not valid."""
        claims = _claims(token, self._key)
        user, password = claims.get("user"), claims.get("pass")
        if claims.get("scope") != "token" or not isinstance(user, str) or not isinstance(password, str):
            return None
        expires = claims.get("exp")
        if expires is not None and not (isinstance(expires, int | float) and expires > self._now()):
            return None
        return Credential("password", password, user)


def derive_key(secret: bytes, *purpose: str) -> OctKey:
    """Return a key for one purpose: neither the secret nor the purpose alone is enough to make it.

    Args:
        secret: not empty.
        purpose: fields without NUL, except the last one.
    """
    text = "\0".join(purpose).encode(errors="surrogatepass")
    return _import(hmac.digest(secret, text, hashlib.sha256))


class _Named(msgspec.Struct):
    iss: str
    sub: str


def unverified_user(token: str) -> str:
    """Return the user that a token names, before it is verified; empty if this server cannot have issued it."""
    parts = token.split(".")
    if len(token) > _LONGEST or len(parts) != 3:
        return ""
    try:
        named = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Named)
    except (ValueError, RecursionError):  # both decoders' errors are ValueErrors
        return ""
    return named.sub if named.iss == _ISSUER else ""


def _import(secret: bytes) -> OctKey:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # the server logs a warning about a short secret at startup
        return OctKey.import_key(secret)


def _claims(token: str, key: OctKey) -> dict[str, Any]:
    """Return the claims of a JWT; empty if it was not signed with this key and algorithm."""
    if len(token) > _LONGEST or not token.isascii():
        return {}
    try:
        claims = jwt.decode(token, key, algorithms=[_ALGORITHM]).claims
    except (JoseError, ValueError, TypeError, RecursionError):  # the latter three for text that is not a JWT
        return {}
    return claims if isinstance(claims, dict) else {}
