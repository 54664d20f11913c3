"""An OpenID Connect issuer for tests, with real keys and a real port, and every kind of failure."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64encode

from tests.support.loops import accept_all

ALGORITHMS = "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519", "EdDSA"
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "ES256K": "secp256k1"}
LARGE = 1024 * 1024 + 1

Trouble = Literal[
    "", "hangs", "500", "drops", "garbage", "wrong issuer", "unsafe keys", "large", "moved", "elsewhere", "loop"
]


@dataclass(frozen=True)
class Signer:
    """A private key, and its published form."""

    kid: str
    alg: str
    key: Key

    @classmethod
    def make(cls, kid: str, alg: str = "ES256") -> Signer:
        if alg.startswith(("RS", "PS")):
            return cls(kid, alg, RSAKey.generate_key(2048))
        if alg in CURVES:
            return cls(kid, alg, ECKey.generate_key(CURVES[alg]))
        return cls(kid, alg, OKPKey.generate_key("Ed25519"))

    def jwk(self, **members: Any) -> dict[str, Any]:
        """Return the public key as in a JWKS; a member that is `...` is omitted."""
        return _without({**self.key.as_dict(private=False), "kid": self.kid, "alg": self.alg, "use": "sig", **members})

    def sign(self, header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes, alg: str = "") -> str:
        """Return a JWT with the given header and payload; bytes are used unchanged."""
        signed = f"{_part(header)}.{_part(payload)}"
        algorithm = JWSRegistry.algorithms["Ed25519" if self.alg == "EdDSA" else alg or self.alg]
        return f"{signed}.{urlsafe_b64encode(algorithm.sign(signed.encode(), self.key)).decode()}"


class Issuer:
    """Serves discovery and a JWKS from its own thread.

    Args:
        alg: algorithm of its first key.
        tls: a directory for a certificate; it serves HTTPS then, and `ca` is the CA to trust.
    """

    audience = "flux-sidecar"

    def __init__(self, alg: str = "ES256", *, tls: Path | None = None) -> None:
        self.keys = [Signer.make("first", alg)]
        self.jwks: list[Any] | None = None
        """Published in place of `keys`."""
        self.trouble: Trouble = ""
        self.requests: list[str] = []
        """The requested paths."""
        self.url = ""
        self.ca = tls / "ca.pem" if tls else None
        self._tls = _certificate(tls) if tls else None
        self._ready = threading.Event()
        self._requested = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    @property
    def key(self) -> Signer:
        """The current signing key."""
        return self.keys[-1]

    def rotate(self, *, keep: bool = False) -> Signer:
        """Sign with a new key from now on; it is published, and old ones only if they are kept."""
        self.keys = [*(self.keys if keep else ()), Signer.make(f"key-{time.monotonic_ns()}")]
        return self.key

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Return the claims of a valid token; the given ones are added, and one that is `...` is omitted."""
        now = int(time.time())
        good = {"iss": self.url, "aud": self.audience, "sub": "alice", "iat": now, "exp": now + 86400}
        return _without({**good, **claims})

    def token(
        self,
        claims: Mapping[str, Any] | bytes = {},
        *,
        key: Signer | None = None,
        alg: str = "",
        headers: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a signed token. Claims and headers are added to those of a valid one; one that is `...` is omitted."""
        signer = key or self.key
        header = _without({"alg": alg or signer.alg, "typ": "JWT", "kid": signer.kid, **(headers or {})})
        return signer.sign(header, claims if isinstance(claims, bytes) else self.claims(**claims), alg)

    def published(self) -> bytes:
        """Return the JWKS."""
        return json.dumps({"keys": [key.jwk() for key in self.keys] if self.jwks is None else self.jwks}).encode()

    def wait_for_request(self) -> None:
        """Wait until there has been a request."""
        assert self._requested.wait(60), "no request"

    def __enter__(self) -> Issuer:
        self._thread.start()
        assert self._ready.wait(60), "the issuer does not listen"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    # ------------------------------------------------------------------------------------------------------- thread

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._stop.wait()
        await accept_all()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        self._requested.set()
        match self.trouble:
            case "hangs":
                await self._stop.wait()
            case "drops" if request.transport:
                request.transport.abort()
            case "500":
                raise web.HTTPInternalServerError
            case "garbage":
                return web.Response(body=b'{"keys": [\xff', content_type="application/json")
            case "large":
                return web.Response(body=b" " * LARGE + self.published())
            case "elsewhere" if not request.host.startswith("localhost"):
                raise web.HTTPFound(f"{self.url.replace('127.0.0.1', 'localhost')}{request.path}")
            case "loop":
                raise web.HTTPFound(request.path)
            case "moved" if not request.path.startswith("/new"):
                raise web.HTTPTemporaryRedirect(f"/new{request.path}")
        if request.path.endswith("/.well-known/openid-configuration"):
            return web.json_response(self._description())
        return web.Response(body=self.published(), content_type="application/json")

    def _description(self) -> dict[str, str]:
        issuer = "https://issuer.example" if self.trouble == "wrong issuer" else self.url
        keys = "http://issuer.example/jwks" if self.trouble == "unsafe keys" else f"{self.url}/jwks"
        return {"issuer": issuer, "jwks_uri": keys}


def _without(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ...}


def _part(words: Mapping[str, Any] | bytes) -> str:
    data = words if isinstance(words, bytes) else json.dumps(words, separators=(",", ":")).encode()
    return urlsafe_b64encode(data).decode()


def unsigned(header: Mapping[str, Any] | bytes, payload: Mapping[str, Any] | bytes, signature: bytes = b"") -> str:
    """Return a JWT with an arbitrary signature."""
    return ".".join((_part(header), _part(payload), urlsafe_b64encode(signature).decode()))


def _certificate(directory: Path) -> ssl.SSLContext:
    """Make a certificate for 127.0.0.1 of an unknown authority, and serve with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (
        (x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False),
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False),
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=2))
    )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    certificate = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "ca.pem").write_bytes(certificate)
    (directory / "server.pem").write_bytes(secret + certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(directory / "server.pem")
    return context
