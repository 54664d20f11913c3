"""Read the public keys of a JWKS (RFC 7517) that can verify signatures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import structlog
from joserfc import jwk
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode

log = structlog.get_logger("oidc")

#: Asymmetric algorithms only: with "none" or HS*, any client that knows the public key could sign.
ALGORITHMS = {
    name: JWSRegistry.algorithms[name]
    for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
}
ALGORITHMS["EdDSA"] = ALGORITHMS["Ed25519"]  # the older name, which most issuers write

#: Limit of bytes of a JWKS or another response of an issuer.
LARGEST = 1024 * 1024

_MOST_KEYS = 100  # each costs the event loop some tenths of a millisecond; issuers publish two to twenty
_SHORTEST_RSA = 2048  # bits (RFC 7518, 3.3)
_LONGEST = 2731  # characters of a number: 16,384 bits, OpenSSL's limit. A number of millions of bits takes seconds
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class Header(msgspec.Struct):
    """The used fields of a token's header. A key in it (jwk, jku, x5c, x5u) is chosen by the sender and is ignored."""

    alg: str
    kid: str | None = None
    crit: Any = msgspec.UNSET


def decode(part: str) -> bytes:
    """Decode base64url: a part of a JWT, or a number in a JWK."""
    return urlsafe_b64decode(part.encode())  # strict: one encoding only, no padding, no spare bits


class Key(NamedTuple):
    """A public key that verifies signatures."""

    kid: str | None
    algorithms: frozenset[str]
    """Allowed by the key's type, curve and ``alg``: a key is not used with any other algorithm."""
    key: jwk.Key


class _Jwk(msgspec.Struct):
    """The metadata of a JWK (RFC 7517)."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None


class _Jwks(msgspec.Struct):
    keys: list[dict[str, Any]]


def read_keys(body: bytes) -> list[Key]:
    """Read a JWKS. Unusable and malformed keys are skipped: the others may be valid.

    Raises:
        ValueError: it is not a JWKS, or too large.
        RecursionError: its JSON is nested too deeply.
    """
    if len(body) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST} bytes")
    keys = []
    found = msgspec.json.decode(body, type=_Jwks).keys
    if len(found) > _MOST_KEYS:
        raise ValueError(f"it has {len(found)} keys, more than {_MOST_KEYS}")
    for number, data in enumerate(found):
        try:
            key = _read_key(data)
        except Exception as exc:  # the libraries raise many types for malformed keys
            log.debug("key left out", number=number, reason=str(exc))
            continue
        if key.algorithms:
            keys.append(key)
    return keys


def _read_key(data: dict[str, Any]) -> Key:
    """Read one JWK; its set of algorithms is empty if none of the accepted ones applies."""
    described = msgspec.convert(data, _Jwk)
    ops = described.key_ops
    if described.kty not in _PUBLIC or described.use not in (None, "sig") or not (ops is None or "verify" in ops):
        raise ValueError("it is not for checking signatures")
    public = {"kty": described.kty} | {name: data[name] for name in _PUBLIC[described.kty]}
    if any(len(value) > _LONGEST for value in public.values()):
        raise ValueError(f"a number of it has more than {_LONGEST} characters")
    if described.kty == "RSA" and int.from_bytes(decode(data["n"])).bit_length() < _SHORTEST_RSA:
        raise ValueError(f"it has less than {_SHORTEST_RSA} bits")
    key = jwk.import_key(public)
    return Key(described.kid, frozenset(_allowed(key, described.alg)), key)


def _allowed(key: jwk.Key, only: str | None) -> Iterable[str]:
    for name, algorithm in ALGORITHMS.items():
        try:
            algorithm.check_key(key)
        except JoseError:
            continue
        if only is None or ALGORITHMS.get(only) is algorithm:
            yield name


def fitting_keys(keys: Iterable[Key], header: Header) -> list[Key]:
    """Return the keys for a token: those with its key ID and algorithm; without a key ID, all with its algorithm."""
    return [key for key in keys if header.alg in key.algorithms and header.kid in (None, key.kid)]
