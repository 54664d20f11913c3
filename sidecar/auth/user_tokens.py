"""Access tokens of the users of a file."""

from __future__ import annotations

import secrets

import msgspec
from joserfc.jwk import OctKey

from sidecar.auth.access_tokens import AccessTokens, derive_key, unverified_user
from sidecar.auth.caller import Caller, Credential
from sidecar.auth.users import METHOD, User, UserFile


class UserTokens:
    """The method ``user``, for access tokens.

    The key of a token is derived from the server's secret and the user's hash: a token ends with the password that it
    was issued for, and with the user. Its caller has the scopes that the file gives now.

    Args:
        file: of the users.
        secret: shared with flux-restful-client; empty: a random one, so that tokens end with the server. The hash
            alone must not be enough to forge a token: other programs may read the file, or its backups.
        tokens: signs and verifies them.
    """

    name = METHOD
    kinds = frozenset({"bearer"})
    cache_ttl = 3600.0  # a change of the file clears the cache
    max_concurrent = 0

    def __init__(self, file: UserFile, secret: str, tokens: AccessTokens) -> None:
        self._file = file
        self._secret = secret.encode() or secrets.token_bytes(32)
        self._tokens = tokens

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the user of an access token; None if it is not valid."""
        user = self._file.find(unverified_user(credential.secret))
        if user is None:
            return None
        expires = self._tokens.expiry(credential.secret, user.caller.name, self._key(user))
        return None if expires is None else msgspec.structs.replace(user.caller, expires=expires)

    def access_token(self, name: str) -> str | None:
        """Make an access token of a user; None if the user has just been removed."""
        user = self._file.find(name)
        return self._tokens.issue(name, self._key(user)) if user else None

    def _key(self, user: User) -> OctKey:
        return derive_key(self._secret, "access token of a user", user.caller.name, str(user.hash))
