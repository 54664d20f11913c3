"""The login of flux-restful-api: one user, one password, and access tokens that expire.

flux-restful-client sends a JWT of user and password, signed with a secret that it shares with the server; forms send
both as plain fields. The response to either is an access token, signed with a key derived from the secret *and* the
password: the secret alone is not enough to forge one.
"""

from __future__ import annotations

import hashlib
import hmac
import time
import warnings
from collections.abc import Callable
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError, SecurityWarning
from joserfc.jwk import OctKey

from sidecar.auth.caller import Caller, Credential, implied

_ALGORITHM = "HS256"
_ISSUER = "flux-sidecar"
_LONGEST = 4096


class Login:
    """The method ``login``.

    Args:
        user: name of the only user.
        password: of the user.
        secret: shared with flux-restful-client; empty: that client cannot log in.
        lifetime: of an access token, in seconds.
        now: returns the Unix time.
    """

    name = "login"
    kinds = frozenset({"bearer", "password"})
    cache_ttl = 3600.0
    max_concurrent = 0

    def __init__(
        self, user: str, password: str, secret: str, lifetime: float, now: Callable[[], float] = time.time
    ) -> None:
        self._user = user
        self._password = password
        self._shared = _key(secret.encode()) if secret else None
        self._own = _key(hmac.digest(secret.encode() or b"-", b"access token\0" + password.encode(), hashlib.sha256))
        self.lifetime = lifetime
        self._now = now

    @property
    def shares_a_secret(self) -> bool:
        """Whether ``POST /v1/token`` is available."""
        return self._shared is not None

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the user as the caller, for a valid access token or for name and password."""
        if credential.kind == "password":
            return self._caller() if self.knows(credential.name, credential.secret) else None
        claims = _claims(credential.secret, self._own)
        if claims.get("iss") != _ISSUER or claims.get("sub") != self._user:
            return None
        expires = claims.get("exp")
        if not isinstance(expires, int | float) or not expires > self._now():
            return None
        return self._caller(float(expires))

    def knows(self, user: object, password: object) -> bool:
        """Whether name and password are right. The comparison takes constant time."""
        if not isinstance(user, str) or not isinstance(password, str):
            return False
        return _same(user, self._user) & _same(password, self._password)

    def password_of(self, token: str) -> Credential | None:
        """Return name and password of a JWT with ``user``, ``pass`` and ``scope``; None if the JWT is not valid."""
        claims = _claims(token, self._shared) if self._shared else {}
        user, password = claims.get("user"), claims.get("pass")
        if claims.get("scope") != "token" or not isinstance(user, str) or not isinstance(password, str):
            return None
        expires = claims.get("exp")
        if expires is not None and not (isinstance(expires, int | float) and expires > self._now()):
            return None
        return Credential("password", password, user)

    def access_token(self) -> str:
        """Make an access token."""
        now = int(self._now())
        claims = {"iss": _ISSUER, "sub": self._user, "iat": now, "exp": now + int(self.lifetime)}
        return str(jwt.encode({"alg": _ALGORITHM}, claims, self._own))

    def _caller(self, expires: float | None = None) -> Caller:
        # The user of flux-restful-api is its superuser.
        return Caller(name=self._user, scopes=implied(["admin"]), method=self.name, expires=expires)


def _key(secret: bytes) -> OctKey:
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


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))
