"""The login of flux-restful-api: one user, one password, and access tokens that expire.

An access token is signed with a key derived from the shared secret *and* the password: the secret alone, which clients
have, is not enough to forge one.
"""

from __future__ import annotations

import hmac

from sidecar.auth.access_tokens import AccessTokens, derive_key
from sidecar.auth.caller import Caller, Credential, implied


class Login:
    """The method ``login``.

    Args:
        user: name of the only user.
        password: of the user.
        secret: shared with flux-restful-client, or empty.
        tokens: signs and verifies access tokens.
    """

    name = "login"
    kinds = frozenset({"bearer", "password"})
    cache_ttl = 3600.0
    max_concurrent = 0

    def __init__(self, user: str, password: str, secret: str, tokens: AccessTokens) -> None:
        self._user = user
        self._password = password
        self._key = derive_key(secret.encode() or b"-", "access token", password)
        self._tokens = tokens

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the user as the caller, for a valid access token or for name and password."""
        if credential.kind == "password":
            return self._caller() if self._knows(credential.name, credential.secret) else None
        expires = self._tokens.expiry(credential.secret, self._user, self._key)
        return None if expires is None else self._caller(expires)

    def access_token(self) -> str:
        """Make an access token."""
        return self._tokens.issue(self._user, self._key)

    def _knows(self, user: str, password: str) -> bool:
        """Whether name and password are right. The comparison takes constant time."""
        return _same(user, self._user) & _same(password, self._password)

    def _caller(self, expires: float | None = None) -> Caller:
        # The user of flux-restful-api is its superuser.
        return Caller(name=self._user, scopes=implied(["admin"]), method=self.name, expires=expires)


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(errors="surrogatepass"), other.encode(errors="surrogatepass"))
