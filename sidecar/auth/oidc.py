"""Bearer tokens (JWTs) of an OpenID Connect issuer, verified locally with the issuer's public keys.

No claim is trusted before the signature is verified, and the token does not choose how it is verified: the algorithms
are those of :mod:`sidecar.auth.keys`, the keys those of the issuer's JWKS or of a file. The server requests only the
keys from the issuer, so an outage of the issuer affects only tokens with a new key.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import structlog
from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from sidecar.auth.caller import SCOPES, Caller, Credential, Scope, implied
from sidecar.auth.jwks import IssuerSettings, open_keys
from sidecar.auth.keys import ALGORITHMS, Header, decode
from sidecar.domain import untrusted

log = structlog.get_logger("oidc")

_LEEWAY = 30  # seconds of allowed difference between the issuer's clock and this machine's
_LATEST = 253_402_300_799.0  # Unix seconds: the end of the year 9999
_LONGEST_TOKEN = 16 * 1024
_LONGEST_NAME = 256

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class _Token(NamedTuple):
    header: Header
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


class _Refused(Exception):
    """A token is not valid. The message is the reason; it quotes nothing of the token."""


@dataclass(frozen=True, kw_only=True)
class ClaimMapping:
    """How claims become a caller. In a claim's name a dot separates the names of nested claims."""

    name_claim: str = "sub"
    """Claim with the caller's name."""
    scope_claim: str = "scope"
    """Claim that grants scopes: words separated by spaces, or a list of strings."""
    scopes: Mapping[str, Scope]
    """Scopes by value of that claim."""
    default: Scope | None = None
    """Scope of a caller whose claim grants none; None: no scope."""
    admins: frozenset[str] = frozenset()
    """Names of callers with the scope admin."""

    def caller(self, claims: dict[str, Any], expires: float) -> Caller:
        """Return the caller of a token's claims.

        Raises:
            _Refused: there is no valid name.
        """
        name = _claim(claims, self.name_claim)
        if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME and name.isprintable()):
            raise _Refused(f"its claim {self.name_claim} is not a name")
        granted = _claim(claims, self.scope_claim)
        values = granted.split(" ") if isinstance(granted, str) else granted if isinstance(granted, list) else []
        scopes = [self.scopes[each] for each in values if isinstance(each, str) and each in self.scopes]
        if name in self.admins:
            scopes.append("admin")
        if not scopes and self.default:
            scopes.append(self.default)
        return Caller(name=name, scopes=implied(scopes), method=Oidc.name, expires=expires)


class Oidc:
    """The method "oidc".

    Args:
        issuer: of the accepted tokens; its URL is the required value of ``iss``.
        audience: required in ``aud``: the client ID of this server.
        mapping: of claims to a caller.
        cache_ttl: seconds for which a result may be cached.
        now: returns the Unix time, for the expiry of tokens.
        clock: returns the monotonic time in seconds, for fetches.

    Raises:
        ValueError: a setting is invalid or unsafe; the message says what to change.
    """

    name = "oidc"
    kinds = frozenset({"bearer"})
    max_concurrent = 0  # keys are fetched once for all waiters

    def __init__(
        self,
        issuer: IssuerSettings,
        audience: str,
        mapping: ClaimMapping,
        *,
        cache_ttl: float = 60.0,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not issuer.url or not audience:
            raise ValueError(
                "OIDC needs an issuer and an audience: without them every token of any issuer would be accepted."
            )
        if unknown := sorted({str(scope) for scope in mapping.scopes.values() if scope not in SCOPES}):
            raise ValueError(f"There is no scope {', '.join(unknown)}: use {', '.join(SCOPES)}.")
        self.cache_ttl = cache_ttl
        self._mapping = mapping
        self._claims = JWTClaimsRegistry(
            now=lambda: int(now()),
            leeway=_LEEWAY,
            iss={"essential": True, "value": issuer.url},
            aud={"essential": True, "value": audience},
            exp={"essential": True},
        )
        self._keys = open_keys(issuer, clock)

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the caller of a token; None if it is not a valid token of the issuer.

        Raises:
            AuthBackendUnavailable: no key is known.
        """
        if credential.kind not in self.kinds:
            return None
        try:
            token = _read(credential.secret)
            expires = self._check(token.claims)  # first the checks without a key: they reject most invalid tokens
            await self._verify(token)
            return self._mapping.caller(token.claims, expires)
        except _Refused as exc:
            log.debug("token refused", reason=str(exc))
            return None

    def _check(self, claims: dict[str, Any]) -> float:
        """Check issuer, audience and times of a token; return its expiry (Unix seconds)."""
        try:
            self._claims.validate(claims)
        except JoseError as exc:
            raise _Refused(str(exc)) from None
        if claims["exp"] > _LATEST:
            raise _Refused("its exp is after the year 9999")
        return float(claims["exp"])

    async def _verify(self, token: _Token) -> None:
        """Verify the signature of a token."""
        if token.header.crit is not msgspec.UNSET:
            raise _Refused("its header has crit, and nothing critical is known here")
        algorithm = ALGORITHMS.get(token.header.alg)
        if algorithm is None:
            raise _Refused("its algorithm is not accepted")
        keys = await self._keys.fitting(token.header)
        if len(keys) != 1:
            raise _Refused("several keys fit it" if keys else "no key of the issuer's fits it")
        if not algorithm.verify(token.signed, token.signature, keys[0].key):
            raise _Refused("its signature is wrong")

    async def close(self) -> None:
        """Cancel a fetch in progress."""
        await self._keys.close()


def _read(text: str) -> _Token:
    """Split and decode a token, once: the same values are checked and used."""
    if len(text) > _LONGEST_TOKEN or not _COMPACT.fullmatch(text):
        raise _Refused("it is no JWT")
    header, claims, signature = text.split(".")
    try:
        token = _Token(
            msgspec.json.decode(decode(header), type=Header),
            msgspec.json.decode(decode(claims), type=dict[str, Any]),
            f"{header}.{claims}".encode(),
            decode(signature),
        )
    except (ValueError, RecursionError) as exc:
        raise _Refused(f"it cannot be read: {exc}") from None
    if untrusted.too_deep(token.claims):
        raise _Refused(f"its claims are nested more than {untrusted.DEPTH} times")
    return token


def _claim(claims: dict[str, Any], path: str) -> Any:
    """Return a claim, or a nested one such as ``realm_access.roles``; None if it is missing."""
    if path in claims:  # names of claims are often URLs, which contain dots
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
