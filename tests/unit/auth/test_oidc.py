"""Tokens of an OpenID Connect issuer: claims, signatures, keys, and requests to the issuer."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jwe
from joserfc.jwk import ECKey, OKPKey, RSAKey

from sidecar.auth import jwks
from sidecar.auth.caller import Caller, Credential, Method, Scope
from sidecar.auth.jwks import IssuerSettings
from sidecar.auth.keys import read_keys
from sidecar.auth.oidc import ClaimMapping, Oidc
from sidecar.domain.errors import Unavailable
from sidecar.runtime.filewatch import Signature, signature
from tests.support import odd_files
from tests.support.issuer import ALGORITHMS, Issuer, Signer, Trouble, unsigned

SCOPES: dict[str, Scope] = {"flux:read": "read", "flux:submit": "submit", "flux:admin": "admin"}
DISCOVERY = ["/.well-known/openid-configuration", "/jwks"]


class Clock:
    """A clock that the tests set."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


Make = Callable[..., Oidc]


def method(
    *,
    issuer: str,
    audience: str,
    jwks: str = "",
    ca: Path | None = None,
    timeout: float = 5,
    scopes: Mapping[str, Scope] = SCOPES,
    claims: Mapping[str, Any] | None = None,
    **options: Any,
) -> Oidc:
    """Return the method for an issuer."""
    settings_ = IssuerSettings(url=issuer, jwks=jwks, ca=ca, timeout=timeout)
    return Oidc(settings_, audience, ClaimMapping(scopes=scopes, **(claims or {})), **options)


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def make(issuer: Issuer, clock: Clock) -> AsyncIterator[Make]:
    made: list[Oidc] = []

    def oidc(**options: Any) -> Oidc:
        known: dict[str, Any] = {"issuer": issuer.url, "audience": issuer.audience}
        made.append(method(**{**known, "now": clock, "clock": clock, "timeout": 60, **options}))
        return made[-1]

    yield oidc
    for each in made:
        await each.close()


@pytest.fixture
async def oidc(make: Make) -> Oidc:
    return make()


async def identify(oidc: Method, token: str) -> Caller | None:
    return await oidc.identify(Credential("bearer", token))


# ---------------------------------------------------------------------------------------------------- accepted tokens


async def test_valid_token(oidc: Oidc, issuer: Issuer) -> None:
    token = issuer.token({"scope": "openid flux:submit", "exp": 4_000_000_000})
    assert await identify(oidc, token) == Caller(
        name="alice", scopes=frozenset({"read", "submit"}), method="oidc", expires=4_000_000_000.0
    )
    assert await identify(oidc, token) is not None
    assert issuer.requests == DISCOVERY


@pytest.mark.parametrize("alg", ALGORITHMS)
async def test_algorithms(oidc: Oidc, issuer: Issuer, alg: str) -> None:
    issuer.keys = [Signer.make("key", alg)]
    assert await identify(oidc, issuer.token()) is not None
    assert await identify(oidc, issuer.token(key=Signer.make("key", alg))) is None


@pytest.mark.parametrize(("named", "published"), [("EdDSA", "Ed25519"), ("Ed25519", "EdDSA"), ("EdDSA", ...)])
async def test_both_names_of_ed25519(oidc: Oidc, issuer: Issuer, named: str, published: Any) -> None:
    issuer.keys = [Signer.make("key", "Ed25519")]
    issuer.jwks = [issuer.key.jwk(alg=published)]
    assert await identify(oidc, issuer.token(headers={"alg": named})) is not None


READ = frozenset({"read"})
EVERYTHING = frozenset({"read", "submit", "admin"})


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, frozenset()),
        ({"scope": ""}, frozenset()),
        ({"scope": "flux:read"}, READ),
        ({"scope": "  flux:read  x"}, READ),
        ({"scope": "flux:admin flux:read"}, EVERYTHING),
        ({"scope": ["flux:admin"]}, EVERYTHING),
        ({"scope": ["flux:read", 5, None, ["flux:admin"], {"flux:admin": 1}]}, READ),
        ({"scope": "flux:readers FLUX:ADMIN flux:read\u2003flux:admin"}, frozenset()),
        ({"scope": ["flux:read flux:admin"]}, frozenset()),
        ({"scope": {"flux:admin": True}}, frozenset()),
        ({"scope": True}, frozenset()),
        ({"scope": None}, frozenset()),
    ],
)
async def test_scopes(oidc: Oidc, issuer: Issuer, claims: dict[str, Any], scopes: frozenset[Scope]) -> None:
    caller = await identify(oidc, issuer.token(claims))
    assert caller is not None
    assert caller.scopes == scopes


@pytest.mark.parametrize(
    ("path", "claims", "scopes"),
    [
        ("realm_access.roles", {"realm_access": {"roles": ["flux:read"]}}, READ),
        ("realm_access.roles", {"realm_access": {}}, frozenset()),
        ("realm_access.roles", {"realm_access": ["roles"]}, frozenset()),
        ("realm_access.roles", {}, frozenset()),
        ("https://flux.example/roles", {"https://flux.example/roles": ["flux:read"]}, READ),
        ("a.b.c", {"a": {"b": {"c": "flux:read"}}}, READ),
    ],
)
async def test_nested_claims(
    make: Make, issuer: Issuer, path: str, claims: dict[str, Any], scopes: frozenset[Scope]
) -> None:
    caller = await identify(make(claims={"scope_claim": path}), issuer.token(claims))
    assert caller is not None
    assert caller.scopes == scopes


@pytest.mark.parametrize(
    ("options", "claims", "scopes"),
    [
        ({}, {}, frozenset()),
        ({"default": "submit"}, {}, frozenset({"read", "submit"})),
        ({"default": "submit"}, {"scope": "flux:read"}, READ),
        ({"admins": frozenset({"alice"})}, {"sub": "alice"}, frozenset({"read", "submit", "admin"})),
        ({"admins": frozenset({"alice"})}, {"sub": "Alice"}, frozenset()),
        ({"admins": frozenset({"alice"}), "default": "read"}, {"sub": "bob"}, READ),
    ],
)
async def test_default_scope_and_admins(
    make: Make, issuer: Issuer, options: dict[str, Any], claims: dict[str, Any], scopes: frozenset[Scope]
) -> None:
    caller = await identify(make(claims=options), issuer.token(claims))
    assert caller is not None
    assert caller.scopes == scopes


@pytest.mark.parametrize("name", ["a", "alice@example.org", "Åsa Öberg", "ƒ" * 256])
async def test_names(make: Make, issuer: Issuer, name: str) -> None:
    caller = await identify(make(claims={"name_claim": "email"}), issuer.token({"email": name}))
    assert caller is not None
    assert caller.name == name


# -------------------------------------------------------------------------------------------------------------- claims


NAN, INFINITY, YEAR_2096 = float("nan"), float("inf"), 4_000_000_000
REFUSED: dict[str, list[Any]] = {
    "iss": [..., None, "", "https://issuer.example", 5, ["x"], {}],
    "aud": [..., None, "", "other", [], ["other"], 5, ["flux-sidecar", 5], {"flux-sidecar": 1}],
    "exp": [..., None, 0, 1, -1, "4000000000", True, [], {}, 10**30, 10**400, 1e300, NAN, INFINITY, -INFINITY],
    "nbf": [None, "1", True, YEAR_2096, 10**400, NAN],
    "iat": [None, "1", True, YEAR_2096, 10**400, INFINITY, [1]],
    "sub": [..., None, "", 5, True, ["alice"], {}, "a\0b", "a\nb", "a\x7f", "a\u2028", "a\ud800", "x" * 257],
}


@pytest.mark.parametrize(
    "claims",
    [{name: value} for name, values in REFUSED.items() for value in values],
    ids=lambda claims: ascii(claims)[:40],
)
async def test_invalid_claims_are_rejected(oidc: Oidc, issuer: Issuer, claims: dict[str, Any]) -> None:
    assert await identify(oidc, issuer.token(claims)) is None


async def test_issuer_is_compared_exactly(make: Make, issuer: Issuer) -> None:
    for other in (f"{issuer.url}/", issuer.url.upper(), issuer.url.replace("127.0.0.1", "localhost")):
        assert await identify(make(), issuer.token({"iss": other})) is None
    assert issuer.requests == []


async def test_one_audience_of_several(oidc: Oidc, issuer: Issuer) -> None:
    assert await identify(oidc, issuer.token({"aud": ["other", issuer.audience]})) is not None


async def test_clock_skew_is_tolerated(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    now = clock.now
    for claims in ({"exp": now - 29}, {"nbf": now + 29}, {"iat": now + 29}, {"exp": now + 0.5}):
        assert await identify(oidc, issuer.token(claims)) is not None
    for claims in ({"exp": now - 31}, {"nbf": now + 31}, {"iat": now + 31}):
        assert await identify(oidc, issuer.token(claims)) is None


async def test_expired_token(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    token = issuer.token({"exp": clock.now + 60})
    assert await identify(oidc, token) is not None
    clock.now += 91
    assert await identify(oidc, token) is None


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "exp", ["unknown"]], ids=repr)
async def test_critical_headers_are_rejected(oidc: Oidc, issuer: Issuer, crit: Any) -> None:
    assert await identify(oidc, issuer.token(headers={"crit": crit, "b64": True})) is None


@pytest.mark.parametrize(
    "headers", [{"alg": ...}, {"alg": None}, {"alg": 5}, {"alg": ["ES256"]}, {"kid": 5}, {"kid": ["first"]}], ids=repr
)
async def test_headers_of_a_wrong_type(oidc: Oidc, issuer: Issuer, headers: dict[str, Any]) -> None:
    assert await identify(oidc, issuer.token(headers=headers)) is None


async def test_unknown_headers_are_ignored(oidc: Oidc, issuer: Issuer) -> None:
    headers = {"typ": "at+jwt", "x5t": "x", "new": {"a": [1]}, "x5c": ["A" * 4000], "jku": 5}
    assert await identify(oidc, issuer.token(headers=headers)) is not None


# ------------------------------------------------------------------------------------------------------- forged tokens

NONE = ["none", "None", "NONE", "nOnE", "none ", "", " ", "null", "HS256", "HS384", "HS512", "dir", "es256", "ES256 "]


@pytest.mark.parametrize("alg", [*NONE, "ES256K", "Ed448", "RSA-OAEP", "A" * 5000])
@pytest.mark.parametrize("signature", [b"", b"\0", b"\0" * 64])
async def test_missing_signature(oidc: Oidc, issuer: Issuer, alg: str, signature: bytes) -> None:
    assert await identify(oidc, unsigned({"alg": alg, "kid": "first"}, issuer.claims(), signature)) is None
    assert await identify(oidc, unsigned({"alg": alg}, issuer.claims(), signature)) is None


@pytest.mark.parametrize("alg", ["RS256", "ES256", "Ed25519"])
@pytest.mark.parametrize("hashed", ["HS256", "HS384", "HS512"])
async def test_public_key_as_hmac_secret(oidc: Oidc, issuer: Issuer, alg: str, hashed: str) -> None:
    """HS256 with the public key as the secret is accepted by servers that trust the header's algorithm."""
    issuer.keys = [Signer.make("key", alg)]
    key = issuer.key
    assert await identify(oidc, issuer.token()) is not None
    published = key.jwk()
    assert isinstance(key.key, RSAKey | ECKey | OKPKey)
    for secret in (
        key.key.as_bytes("PEM", private=False),
        key.key.as_bytes("PEM", private=False).strip(),
        key.key.as_bytes("DER", private=False),
        json.dumps(published).encode(),
        json.dumps(published, separators=(",", ":")).encode(),
        issuer.published(),
        base64.urlsafe_b64decode(str(published.get("n", published.get("x"))) + "=="),
        b"",
    ):
        for named in (hashed, alg):
            signed = unsigned({"alg": named, "kid": "key"}, issuer.claims()).rpartition(".")[0]
            digest = hmac.new(secret, signed.encode(), getattr(hashlib, f"sha{hashed[2:]}")).digest()
            token = f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"
            assert await identify(oidc, token) is None


async def test_algorithm_must_match_the_key(oidc: Oidc, issuer: Issuer) -> None:
    rsa, small = Signer.make("rsa", "RS256"), Signer.make("ec", "ES256")
    issuer.keys = [rsa, small]
    assert await identify(oidc, issuer.token(key=rsa)) is not None
    assert await identify(oidc, issuer.token(key=rsa, alg="PS256")) is None
    assert await identify(oidc, issuer.token(key=rsa, alg="RS512")) is None
    assert await identify(oidc, issuer.token(key=rsa, headers={"kid": "ec"})) is None
    assert await identify(oidc, issuer.token(key=small, headers={"kid": "rsa"})) is None
    assert await identify(oidc, issuer.token(key=small, headers={"alg": "RS256", "kid": "rsa"})) is None
    assert await identify(oidc, issuer.token(key=small, headers={"alg": "ES384"})) is None


async def test_keys_in_a_token_are_ignored(oidc: Oidc, issuer: Issuer) -> None:
    mine = Signer.make("first")
    with Issuer() as other:
        other.keys = [mine]
        for headers in (
            {"jwk": mine.jwk()},
            {"jku": f"{other.url}/jwks"},
            {"x5u": f"{other.url}/cert"},
            {"jwk": mine.jwk(), "kid": ...},
            {"jku": f"{other.url}/jwks", "kid": "theirs"},
            {"kid": f"{other.url}/jwks"},
            {"kid": "../../../../dev/null"},
        ):
            assert await identify(oidc, issuer.token(key=mine, headers=headers)) is None
        assert other.requests == []


async def test_any_changed_character_is_rejected(oidc: Oidc, issuer: Issuer) -> None:
    """Neither the content nor its base64 may have a second spelling."""
    token = issuer.token()
    for number, character in enumerate(token):
        other = "B" if character == "A" else "A"
        assert await identify(oidc, f"{token[:number]}{other}{token[number + 1 :]}") is None
    for end in ("A", "AA", "AAAA"):
        assert await identify(oidc, token + end) is None
    assert await identify(oidc, token) is not None


MALFORMED = [
    "",
    ".",
    "..",
    "...",
    "{token}.",
    ".{token}",
    "{token}.{token}",
    "{token}=",
    "{token} ",
    " {token}",
    "{token}\n",
]
MALFORMED += ["{token}\0", "{token}é", "{token}\ud800", "{token}\N{FULLWIDTH LATIN CAPITAL LETTER A}", "Bearer {token}"]
MALFORMED += [
    "{payload}",
    "{payload}.",
    "{payload}..",
    "{payload}.\0",
    "{payload}.\0{signature}",
    "{payload}..{signature}",
]
MALFORMED += ['{{"payload": "{token}"}}', "x" * 16 * 1024 + ".{token}", "{token}" + "x" * 16 * 1024]


@pytest.mark.parametrize("malformed", MALFORMED, ids=lambda malformed: ascii(malformed)[-30:])
async def test_malformed_jwts_are_rejected(oidc: Oidc, issuer: Issuer, malformed: str) -> None:
    token = issuer.token()
    payload, _, signature = token.rpartition(".")
    assert await identify(oidc, malformed.format(token=token, payload=payload, signature=signature)) is None
    assert issuer.requests == []


async def test_too_long_token(oidc: Oidc, issuer: Issuer) -> None:
    lengths = {size: len(issuer.token({"fill": "x" * size})) for size in range(12_000, 12_100)}
    fits = max(size for size, length in lengths.items() if length <= 16 * 1024)
    assert await identify(oidc, issuer.token({"fill": "x" * fits})) is not None
    assert await identify(oidc, issuer.token({"fill": "x" * (fits + 1)})) is None


PAYLOADS = [b"", b"null", b"[]", b"{", b"\xff", b"\xef\xbb\xbf{}", b'{"iss":"\xff"}', b'"x"', b"{}{}", b"'a'", b"NaN"]
PAYLOADS += [b"[" * 12_000, b'{"a":' * 2_000, b"9" * 12_000, b"\0", b'{"\0":1}']


@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: repr(payload[:9]))
async def test_payloads_that_are_not_claims(oidc: Oidc, issuer: Issuer, payload: bytes) -> None:
    assert await identify(oidc, issuer.token(payload)) is None
    assert await identify(oidc, issuer.key.sign(payload, issuer.claims())) is None
    assert issuer.requests == []


async def test_deep_json_in_a_valid_token(oidc: Oidc, issuer: Issuer) -> None:
    deep = b"[" * 5000 + b"]" * 5000
    whole = json.dumps({**issuer.claims(), "x": "@"}).encode().replace(b'"@"', deep)
    assert await identify(oidc, issuer.token(whole)) is None


async def test_duplicate_names(oidc: Oidc, issuer: Issuer) -> None:
    """The last one applies, both in checks and in the result."""
    good = json.dumps(issuer.claims()).encode()[1:]
    caller = await identify(oidc, issuer.token(b'{"sub":"mallory","exp":1,' + good))
    assert caller is not None
    assert caller.name == "alice"
    assert await identify(oidc, issuer.token(b"{" + good[:-1] + b',"exp":1}')) is None
    twice = b'{"alg":"ES256","kid":"first","alg":"none"}'
    assert await identify(oidc, issuer.key.sign(twice, issuer.claims())) is None


async def test_encrypted_tokens(oidc: Oidc, issuer: Issuer) -> None:
    issuer.keys = [Signer.make("key", "RS256")]
    plain = json.dumps(issuer.claims()).encode()
    header = {"alg": "RSA-OAEP", "enc": "A128GCM", "kid": "key"}
    token = jwe.encrypt_compact(header, plain, issuer.key.key)
    assert token.count(".") == 4
    assert await identify(oidc, token) is None
    assert issuer.requests == []


async def test_only_bearer_tokens(oidc: Oidc, issuer: Issuer) -> None:
    assert await oidc.identify(Credential("password", issuer.token(), "alice")) is None


async def test_refusal_is_logged_without_the_token(oidc: Oidc, issuer: Issuer) -> None:
    with structlog.testing.capture_logs() as logs:
        token = issuer.token({"sub": "s3cret\n", "scope": "s3cret"})
        assert await identify(oidc, token) is None
        assert await identify(oidc, issuer.token({"aud": "s3cret"})) is None
        assert await identify(oidc, issuer.token(b'{"s3cret')) is None
        assert await identify(oidc, issuer.token(headers={"alg": "s3cret"})) is None
    refused = [entry for entry in logs if entry["event"] == "token refused"]
    assert [entry["log_level"] for entry in refused] == ["debug"] * 4
    assert all(entry["reason"] for entry in refused)
    assert "s3cret" not in repr(logs)
    assert token[:20] not in repr(logs)


# ------------------------------------------------------------------------------------------------------ keys in a JWKS


@pytest.mark.filterwarnings("ignore:Key size")
async def test_keys_that_verify_no_signatures(oidc: Oidc, issuer: Issuer) -> None:
    good = issuer.key
    weak = Signer("weak", "RS256", RSAKey.generate_key(1024))
    koblitz = Signer.make("koblitz", "ES256K")
    goldilocks = Signer("448", "Ed448", OKPKey.generate_key("Ed448"))
    strange = [
        good.jwk(kid="enc", use="enc"),
        good.jwk(kid="Sig", use="Sig"),
        good.jwk(kid="ops", key_ops=["encrypt"]),
        good.jwk(kid="no-ops", key_ops=[]),
        good.jwk(kid="alg", alg="ECDH-ES"),
        good.jwk(kid="other-alg", alg="ES384"),
        good.jwk(kid="none", alg="none"),
        good.jwk(kid=5),
        good.jwk(kid="type", kty="oct", k="c2VjcmV0"),
        good.jwk(kid="new-type", kty="AKP"),
        good.jwk(kid="no-type", kty=...),
        good.jwk(kid="broken", x="!"),
        good.jwk(kid="off-curve", x=good.jwk()["y"]),
        good.jwk(kid="no-y", y=...),
        good.jwk(kid="curve", crv="P-384"),
        good.jwk(kid="new-curve", crv="P-999"),
        koblitz.jwk(),
        koblitz.jwk(alg=..., kid="koblitz-without-alg"),
        Signer("x", "Ed25519", OKPKey.generate_key("X25519")).jwk(alg=...),
        goldilocks.jwk(alg=...),
        weak.jwk(),
        {"kty": "RSA", "kid": "n", "n": 5, "e": "AQAB"},
        {"kty": "RSA", "kid": "n", "n": "", "e": ""},
        {},
    ]
    issuer.jwks = [*strange, good.jwk()]
    assert await identify(oidc, issuer.token()) is not None
    for kid in (key.get("kid") for key in strange):
        if isinstance(kid, str):
            assert await identify(oidc, issuer.token(headers={"kid": kid})) is None
    assert await identify(oidc, issuer.token(headers={"kid": ...})) is not None, "only one of them is a valid key"
    assert await identify(oidc, issuer.token(key=weak)) is None
    assert await identify(oidc, issuer.token(key=koblitz)) is None
    assert await identify(oidc, issuer.token(key=goldilocks)) is None
    assert await identify(oidc, issuer.token(key=goldilocks, alg="Ed448", headers={"alg": "EdDSA"})) is None


@pytest.mark.parametrize(
    "members", [{"use": ..., "key_ops": ["verify"]}, {"use": ...}, {"alg": ...}, {"key_ops": ["verify"]}]
)
async def test_optional_members_of_a_key(oidc: Oidc, issuer: Issuer, members: dict[str, Any]) -> None:
    issuer.jwks = [issuer.key.jwk(**members)]
    assert await identify(oidc, issuer.token()) is not None


async def test_published_private_keys(oidc: Oidc, issuer: Issuer) -> None:
    issuer.jwks = [{**issuer.key.key.as_dict(private=True), "kid": "first"}]
    assert await identify(oidc, issuer.token()) is not None


async def test_tokens_without_key_id(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    nameless = {"kid": ...}
    rsa = Signer.make("rsa", "RS256")
    issuer.keys = [rsa, issuer.key]
    assert await identify(oidc, issuer.token(headers=nameless)) is not None
    assert await identify(oidc, issuer.token(key=rsa, headers=nameless)) is not None
    assert await identify(oidc, issuer.token(key=Signer.make("x"), headers=nameless)) is None
    old, new = issuer.key, issuer.rotate(keep=True)
    clock.now += 3601
    assert await identify(oidc, issuer.token()) is not None
    for one_of_two in (old, new):
        assert await identify(oidc, issuer.token(key=one_of_two, headers=nameless)) is None
    assert await identify(oidc, issuer.token(key=rsa, headers=nameless)) is not None


async def test_empty_key_set(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    """It replaces the previous keys, which are no longer valid."""
    assert await identify(oidc, issuer.token()) is not None
    issuer.jwks = []
    clock.now += 3601
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable):
        await identify(oidc, issuer.token())
    assert ("keys fetched", "warning") in [(entry["event"], entry["log_level"]) for entry in logs]


# -------------------------------------------------------------------------------------------------------- fetching keys


async def test_tokens_of_other_issuers_cause_no_request(oidc: Oidc, issuer: Issuer) -> None:
    with Issuer() as other:
        assert await identify(oidc, other.token()) is None
    for refused in ({"aud": "x"}, {"exp": 1}, {"nbf": 4_000_000_000}):
        assert await identify(oidc, issuer.token(refused)) is None
    assert await identify(oidc, issuer.token(headers={"alg": "none"})) is None
    assert issuer.requests == []


async def test_keys_from_a_url(make: Make, issuer: Issuer) -> None:
    assert await identify(make(jwks=f"{issuer.url}/keys"), issuer.token()) is not None
    assert issuer.requests == ["/keys"]


@pytest.mark.parametrize("path", ["/", "/realms/hpc", "/realms/hpc/"])
async def test_an_issuer_with_a_path(make: Make, issuer: Issuer, path: str) -> None:
    issuer.url += path
    assert await identify(make(issuer=issuer.url), issuer.token()) is not None
    assert issuer.requests[0] == f"{path.rstrip('/')}/.well-known/openid-configuration"


async def test_concurrent_callers_share_one_request(oidc: Oidc, issuer: Issuer) -> None:
    callers = await asyncio.gather(*(identify(oidc, issuer.token({"sub": str(number)})) for number in range(20)))
    assert [caller and caller.name for caller in callers] == [str(number) for number in range(20)]
    assert issuer.requests == DISCOVERY


async def test_cancelled_caller_does_not_affect_others(oidc: Oidc, issuer: Issuer) -> None:
    first = asyncio.create_task(identify(oidc, issuer.token()))
    second = asyncio.create_task(identify(oidc, issuer.token()))
    await asyncio.wait([first, second], timeout=0)
    first.cancel()
    assert await second is not None
    assert first.cancelled()
    assert issuer.requests == DISCOVERY


async def test_a_new_key(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    old = issuer.key
    assert await identify(oidc, issuer.token()) is not None
    issuer.rotate()
    assert await identify(oidc, issuer.token()) is None, "the keys have just been fetched"
    assert issuer.requests == DISCOVERY
    clock.now += 30
    assert await identify(oidc, issuer.token()) is not None
    assert await identify(oidc, issuer.token(key=old)) is None
    assert issuer.requests == DISCOVERY * 2


async def test_unknown_key_ids(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    assert await identify(oidc, issuer.token()) is not None
    for tenths in range(1, 901):
        clock.now += 0.1
        assert await identify(oidc, issuer.token(headers={"kid": str(tenths)})) is None
    assert 2 <= issuer.requests.count("/jwks") - 1 <= 3


async def test_keys_are_fetched_every_hour(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    token = issuer.token()
    assert await identify(oidc, token) is not None
    issuer.rotate()
    clock.now += 3599
    assert await identify(oidc, token) is not None
    assert issuer.requests == DISCOVERY
    clock.now += 1
    assert await identify(oidc, token) is None
    assert issuer.requests == DISCOVERY * 2


TROUBLES: dict[Trouble, str] = {
    "500": "answers 500",
    "drops": "disconnected",
    "garbage": "JSON",
    "wrong issuer": "is about 'https://issuer.example'",
    "unsafe keys": "not HTTPS",
    "large": "larger than",
    "elsewhere": "leads elsewhere",
    "loop": "leads on and on",
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_unavailable_keys(oidc: Oidc, issuer: Issuer, clock: Clock, trouble: Trouble) -> None:
    issuer.trouble = trouble
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable) as raised:
        await identify(oidc, issuer.token())
    assert issuer.url in raised.value.detail
    assert raised.value.headers["Retry-After"] == "2"
    (warning,) = [entry for entry in logs if entry["event"] == "keys cannot be fetched"]
    assert warning["log_level"] == "warning"
    assert TROUBLES[trouble] in warning["error"]
    requests = len(issuer.requests)
    issuer.trouble = ""
    clock.now += 1
    with pytest.raises(Unavailable):
        await identify(oidc, issuer.token())
    assert len(issuer.requests) == requests
    assert await identify(oidc, "no.jwt.") is None, "an invalid token is rejected although the issuer is away"
    clock.now += 1
    assert await identify(oidc, issuer.token()) is not None


async def test_hanging_issuer(make: Make, issuer: Issuer) -> None:
    issuer.trouble = "hangs"
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable):
        await identify(make(timeout=0.1), issuer.token())
    assert ("keys cannot be fetched", "TimeoutError") in [(entry["event"], entry.get("error")) for entry in logs]


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_known_keys_stay_valid(oidc: Oidc, issuer: Issuer, clock: Clock, trouble: Trouble) -> None:
    assert await identify(oidc, issuer.token()) is not None
    issuer.trouble = trouble
    clock.now += 3600
    with structlog.testing.capture_logs() as logs:
        assert await identify(oidc, issuer.token()) is not None
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["keys cannot be fetched"]
    requests = len(issuer.requests)
    clock.now += 29
    assert await identify(oidc, issuer.token()) is not None
    assert await identify(oidc, issuer.token(headers={"kid": "new"})) is None
    assert len(issuer.requests) == requests


async def test_known_keys_are_used_during_a_fetch(make: Make, issuer: Issuer, clock: Clock) -> None:
    oidc = make(timeout=3600)
    assert await identify(oidc, issuer.token()) is not None
    issuer.trouble = "500"
    clock.now += 3600
    assert await identify(oidc, issuer.token()) is not None
    issuer.trouble = "hangs"
    clock.now += 30
    async with asyncio.timeout(30):
        assert await identify(oidc, issuer.token()) is not None
        assert await identify(oidc, issuer.token()) is not None


async def test_recovered_issuer(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    old = issuer.token()
    assert await identify(oidc, old) is not None
    issuer.trouble = "500"
    clock.now += 3600
    assert await identify(oidc, old) is not None
    issuer.trouble = ""
    clock.now += 30
    assert await identify(oidc, issuer.token(headers={"kid": "new"})) is None
    issuer.rotate()
    clock.now += 3600
    assert await identify(oidc, old) is None, "the keys are fetched before the check"


async def test_unreachable_issuer(clock: Clock) -> None:
    with Issuer() as issuer:
        token = issuer.token()
        oidc = method(issuer=issuer.url, audience=issuer.audience, now=clock, clock=clock)
        fresh = method(issuer=issuer.url, audience=issuer.audience, now=clock, clock=clock)
        assert await identify(oidc, token) is not None
    clock.now += 3600
    assert await identify(oidc, token) is not None
    with pytest.raises(Unavailable):
        await identify(fresh, token)


async def test_close_during_a_request(make: Make, issuer: Issuer) -> None:
    issuer.trouble = "hangs"
    oidc = make(timeout=3600)
    waiting = asyncio.create_task(identify(oidc, issuer.token()))
    await asyncio.to_thread(issuer.wait_for_request)
    await oidc.close()
    with pytest.raises(Unavailable):
        await waiting


def test_fake_issuer_closes_all_connections() -> None:
    """Also new ones: an open one would fail the test that runs when it is garbage-collected."""
    for _ in range(20):
        with Issuer() as issuer:
            host, port = issuer.url.removeprefix("http://").split(":")
            connection = socket.create_connection((host, int(port)), timeout=60)
        with connection:
            assert connection.recv(1) == b""


async def test_redirect_on_the_same_server(oidc: Oidc, issuer: Issuer) -> None:
    issuer.trouble = "moved"
    assert await identify(oidc, issuer.token()) is not None
    assert "/new/jwks" in issuer.requests


async def test_https(tmp_path: Path) -> None:
    with Issuer(tls=tmp_path) as issuer:
        options: Mapping[str, Any] = {"issuer": issuer.url, "audience": issuer.audience}
        trusting, strict = method(**options, ca=issuer.ca), method(**options)
        assert await identify(trusting, issuer.token()) is not None
        with pytest.raises(Unavailable):
            await identify(strict, issuer.token())


# ------------------------------------------------------------------------------------------------------ keys in a file


async def test_key_file(make: Make, issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(issuer.published())
    oidc = make(jwks=str(file), issuer="anything")
    token = issuer.token({"iss": "anything"})
    assert await identify(oidc, token) is not None
    assert await identify(oidc, issuer.token({"iss": "anything"}, headers={"kid": "new"})) is None
    assert issuer.requests == []


async def test_replaced_secret(make: Make, issuer: Issuer, tmp_path: Path) -> None:
    """As the kubelet does it: file -> ..data/file, ..data -> ..version, and ..data is renamed over."""

    def publish(version: str) -> None:
        (tmp_path / version).mkdir()
        (tmp_path / version / "jwks.json").write_bytes(issuer.published())
        (tmp_path / "..data_tmp").symlink_to(version)
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")

    publish("..one")
    (tmp_path / "jwks.json").symlink_to("..data/jwks.json")
    oidc = make(jwks=str(tmp_path / "jwks.json"))
    old = issuer.token()
    assert await identify(oidc, old) is not None
    issuer.rotate()
    publish("..two")
    assert await identify(oidc, issuer.token()) is not None
    assert await identify(oidc, old) is None


@pytest.mark.parametrize(
    "broken", [b"", b"{}", b"\xff", b'{"keys": 5}', b'{"keys": [5]}', b"[" * 100_000, b" " * 2_000_000]
)
async def test_invalid_file(make: Make, issuer: Issuer, tmp_path: Path, broken: bytes) -> None:
    file = tmp_path / "jwks.json"
    oidc = make(jwks=str(file))
    file.write_bytes(broken)
    with pytest.raises(Unavailable, match="JWKS file"):
        await identify(oidc, issuer.token())
    file.write_bytes(issuer.published())
    assert await identify(oidc, issuer.token()) is not None
    (tmp_path / "new").write_bytes(broken)
    (tmp_path / "new").replace(file)
    with structlog.testing.capture_logs() as logs:
        assert await identify(oidc, issuer.token()) is not None
        assert await identify(oidc, issuer.token()) is not None
    assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["keys cannot be read"]


@pytest.mark.parametrize("how", odd_files.ODD)
async def test_irregular_file_of_keys(make: Make, issuer: Issuer, tmp_path: Path, how: str) -> None:
    """The known keys stay valid."""
    file = tmp_path / "jwks.json"
    file.write_bytes(issuer.published())
    oidc = make(jwks=str(file))
    assert await identify(oidc, issuer.token()) is not None
    why = odd_files.put(file, how)
    with structlog.testing.capture_logs() as logs:
        assert await identify(oidc, issuer.token()) is not None
    assert [why in entry["error"] for entry in logs if entry["log_level"] == "warning"] == [True]


async def test_keys_on_a_hanging_file_system(
    make: Make, issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The known keys stay valid, after one timeout."""
    monkeypatch.setattr("sidecar.runtime.files.TIMEOUT", 0.1)
    file = tmp_path / "jwks.json"
    file.write_bytes(issuer.published())
    oidc = make(jwks=str(file))
    assert await identify(oidc, issuer.token()) is not None
    answers = threading.Event()

    def slow(path: Path) -> Signature:
        assert answers.wait(60)
        return signature(path)

    monkeypatch.setattr("sidecar.auth.jwks.signature", slow)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert await identify(oidc, issuer.token()) is not None
    assert ["does not answer" in entry["error"] for entry in logs if entry["log_level"] == "warning"] == [True]
    answers.set()


@pytest.mark.parametrize("how", ["FIFO", "sparse file"])
def test_irregular_file_of_an_authority(tmp_path: Path, how: str) -> None:
    why = odd_files.put(tmp_path / "ca", how)
    with pytest.raises(ValueError, match=why):
        jwks.trust(tmp_path / "ca")


async def test_missing_file(make: Make, issuer: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    oidc = make(jwks=str(file))
    with structlog.testing.capture_logs() as logs, pytest.raises(Unavailable):
        await identify(oidc, issuer.token())
    assert str(file) in repr(logs)
    file.write_bytes(issuer.published())
    assert await identify(oidc, issuer.token()) is not None
    file.unlink()
    assert await identify(oidc, issuer.token()) is not None


async def test_too_many_keys(oidc: Oidc, issuer: Issuer, clock: Clock) -> None:
    """Parsing a megabyte of keys blocks the event loop for half a second, so the known keys stay in use."""
    assert await identify(oidc, issuer.token()) is not None
    issuer.jwks = [issuer.key.jwk(kid=str(number)) for number in range(101)]
    clock.now += 3600
    with structlog.testing.capture_logs() as logs:
        assert await identify(oidc, issuer.token()) is not None
    assert [entry["error"] for entry in logs if entry["log_level"] == "warning"] == [
        "it has 101 keys, more than 100"
    ]  # fmt: skip
    issuer.jwks = issuer.jwks[1:]
    clock.now += 30
    assert await identify(oidc, issuer.token(headers={"kid": "100"})) is not None


@pytest.mark.parametrize("member", ["n", "e", "x", "y"])
def test_number_of_a_million_bits(member: str, issuer: Issuer) -> None:
    """It is not parsed, which would take a second."""
    with structlog.testing.capture_logs() as logs:
        rsa, ec = Signer("large", "RS256", RSAKey.generate_key(2048)), Signer.make("curve", "ES256")
        key = (ec if member in "xy" else rsa).jwk(**{member: "_" * 200_001})
        assert read_keys(json.dumps({"keys": [key]}).encode()) == []
    assert [entry["reason"] for entry in logs] == ["a number of it has more than 2731 characters"]


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"issuer": "http://issuer.example"}, "not HTTPS"),
        ({"issuer": "http://10.0.0.1"}, "not HTTPS"),
        ({"issuer": "http://127.0.0.1.example.org"}, "not HTTPS"),
        ({"issuer": "http://localhost.example.org"}, "not HTTPS"),
        ({"issuer": "ftp://127.0.0.1"}, "not HTTPS"),
        ({"issuer": "issuer.example"}, "not HTTPS"),
        ({"issuer": "https://"}, "not HTTPS"),
        ({"issuer": ""}, "issuer and an audience"),
        ({"audience": ""}, "issuer and an audience"),
        ({"jwks": "http://issuer.example/jwks"}, "not HTTPS"),
        ({"jwks": "file:///etc/jwks"}, "not HTTPS"),
        ({"scopes": {"x": "root"}}, "no scope root"),
        ({"ca": Path("/nowhere/ca.pem")}, "/nowhere/ca.pem cannot be read"),
        ({"ca": Path("/dev/null")}, "/dev/null cannot be read"),
    ],
)
def test_unsafe_urls(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        method(**{"issuer": "https://issuer.example", "audience": "x", **options})


@pytest.mark.parametrize(
    "issuer", ["https://issuer.example", "http://127.0.0.9:1", "http://[::1]:1", "http://localhost"]
)
def test_safe_urls(issuer: str) -> None:
    oidc: Method = method(issuer=issuer, audience="x", cache_ttl=5)
    assert (oidc.name, oidc.kinds, oidc.cache_ttl) == ("oidc", frozenset({"bearer"}), 5)


# ------------------------------------------------------------------------------------------------------ arbitrary input


def values(**floats: Any) -> st.SearchStrategy[Any]:
    """JSON values."""
    return st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(**floats) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=10,
    )


JSON = values()
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**63, 2**64, 1e308])
CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "iss": JSON,
        "aud": JSON | st.just([Issuer.audience]),
        "exp": JSON | NUMBERS,
        "nbf": JSON | NUMBERS,
        "iat": JSON | NUMBERS,
        "sub": JSON | st.text(max_size=300),
        "scope": JSON | st.lists(st.sampled_from(sorted(SCOPES))) | st.sampled_from(sorted(SCOPES)),
    },
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from([*NONE, *ALGORITHMS]) | JSON,
        "kid": st.sampled_from(["first", "other", ""]) | JSON,
        "crit": JSON,
        "b64": JSON,
        "jwk": st.just(Signer.make("first").jwk()) | JSON,
        "jku": JSON,
        "typ": JSON,
    },
)
MEMBERS = ["kty", "kid", "use", "key_ops", "alg", "crv", "x", "y", "n", "e"]
JWK_VALUES = values(allow_nan=False, allow_infinity=False) | st.sampled_from(
    ["RSA", "EC", "OKP", "oct", "P-256", "Ed25519", "AQAB", "sig", "ES256", "first", ["verify"]]
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
MALLORY = Signer.make("first")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("oidc")


@pytest.fixture(scope="module")
def still() -> Issuer:
    """An issuer that is only used through a file."""
    issuer = Issuer()
    issuer.url = "https://issuer.example"
    return issuer


@pytest.fixture(scope="module")
def offline(still: Issuer, directory: Path) -> Oidc:
    (directory / "jwks.json").write_bytes(still.published())
    return method(issuer=still.url, audience=still.audience, jwks=str(directory / "jwks.json"))


@FUZZ
@given(secret=st.text() | st.binary().map(lambda data: data.decode("latin-1")) | st.from_regex(r"\A[\w.-]*\Z"))
def test_any_text(offline: Oidc, secret: str) -> None:
    assert asyncio.run(identify(offline, secret)) is None


@FUZZ
@given(header=st.binary(), payload=st.binary(), signature=st.binary())
def test_any_bytes(offline: Oidc, header: bytes, payload: bytes, signature: bytes) -> None:
    assert asyncio.run(identify(offline, unsigned(header, payload, signature))) is None


@FUZZ
@given(headers=HEADERS, claims=CLAIMS, signature=st.none() | st.binary(max_size=140))
def test_any_claims_with_another_key(
    offline: Oidc, still: Issuer, headers: dict[str, Any], claims: dict[str, Any], signature: bytes | None
) -> None:
    whole = {"alg": "ES256", "kid": "first", **headers}
    if signature is None:
        token = MALLORY.sign(whole, still.claims(**claims))
    else:
        token = unsigned(whole, still.claims(**claims), signature)
    assert asyncio.run(identify(offline, token)) is None


@FUZZ
@given(headers=HEADERS, claims=CLAIMS)
def test_any_claims_of_the_issuer(
    offline: Oidc, still: Issuer, headers: dict[str, Any], claims: dict[str, Any]
) -> None:
    caller = asyncio.run(identify(offline, still.token(claims, headers=headers)))
    if caller is not None:
        assert caller.name == claims.get("sub", "alice")
        assert caller.name.isprintable()
        assert caller.scopes <= EVERYTHING
        assert caller.expires is not None
        assert time.time() - 31 < caller.expires < 253_402_300_800
        assert headers.get("alg", "ES256") == "ES256"
        assert headers.get("kid") in ("first", None)
        assert "crit" not in headers


@FUZZ
@given(data=st.data())
def test_changed_tokens(offline: Oidc, still: Issuer, data: st.DataObject) -> None:
    token = still.token()
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(len(token), start + 8)))
    malformed = token[:start] + data.draw(st.text(max_size=8)) + token[end:]
    assert (asyncio.run(identify(offline, malformed)) is not None) == (malformed == token)


@FUZZ
@given(keys=st.lists(st.dictionaries(st.sampled_from(MEMBERS), JWK_VALUES, max_size=8), max_size=4))
def test_any_jwks(still: Issuer, directory: Path, keys: list[Any]) -> None:
    """The valid key is found among any others."""
    (directory / "any.json").write_text(json.dumps({"keys": [*keys, still.key.jwk()]}))
    oidc = method(issuer=still.url, audience=still.audience, jwks=str(directory / "any.json"))
    assert asyncio.run(identify(oidc, still.token())) is not None
