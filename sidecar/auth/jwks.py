"""The public keys of an issuer (its JWKS), from a file or from where the issuer publishes them.

What is fetched is kept, asked for again when a token names a key that is not known, and never so often that somebody
who invents key ids could make this server hammer the issuer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import aiohttp
import msgspec
import structlog
from joserfc import jwk
from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry
from joserfc.util import urlsafe_b64decode
from yarl import URL

from sidecar.errors import CallerUnknown

log = structlog.get_logger("oidc")

#: Asymmetric ones alone: with "none" or HS* whoever knows a public key, which is everybody, could sign.
ALGORITHMS = {
    name: JWSRegistry.algorithms[name]
    for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "Ed25519")
}
ALGORITHMS["EdDSA"] = ALGORITHMS["Ed25519"]  # the older name, which most issuers write

_SHORTEST_RSA = 2048  # bits, as RFC 7518 has it
_LARGEST_ANSWER = 1024 * 1024
_FRESH = 3600.0  # after so many seconds keys are asked for again: a key that was withdrawn is good no longer
_PAUSE = 30.0  # between two fetches: tokens with invented key ids must not make us hammer the issuer
_RETRY = 2.0  # the same while no key is known at all, and nobody can be let in
_REDIRECTS = 3
_PUBLIC = {"RSA": ("n", "e"), "EC": ("crv", "x", "y"), "OKP": ("crv", "x")}


class Header(msgspec.Struct):
    """What is read of a token's header. A key in it (jwk, jku, x5c, x5u) is the sender's word, and is not."""

    alg: str
    kid: str | None = None
    crit: Any = msgspec.UNSET


def decode(part: str) -> bytes:
    """Return the bytes of a part of a JWT, or of a number in a JWK."""
    return urlsafe_b64decode(part.encode())  # one spelling only: no padding, no bits to spare


class _Key(NamedTuple):
    kid: str | None
    algorithms: frozenset[str]
    """Those that its type, its curve and its own ``alg`` allow: no key ever serves another's algorithm."""
    key: jwk.Key


class _Jwk(msgspec.Struct):
    """What a JWK says about itself (RFC 7517)."""

    kty: str
    kid: str | None = None
    use: str | None = None
    key_ops: list[str] | None = None
    alg: str | None = None


class _Jwks(msgspec.Struct):
    keys: list[dict[str, Any]]


class _Discovery(msgspec.Struct):
    """What is read of an issuer's description of itself."""

    issuer: str
    jwks_uri: str


def _read_keys(body: bytes) -> list[_Key]:
    """Read a JWKS. A key that is of no use here, or broken, is left out: others beside it may be good.

    Raises:
        ValueError: it is no JWKS.
        RecursionError: nor is this.
    """
    if len(body) > _LARGEST_ANSWER:
        raise ValueError(f"it is larger than {_LARGEST_ANSWER} bytes")
    keys = []
    for number, data in enumerate(msgspec.json.decode(body, type=_Jwks).keys):
        try:
            key = _read_key(data)
        except Exception as exc:  # a library's word on a broken key: there are too many kinds of both
            log.debug("key left out", number=number, reason=str(exc))
            continue
        if key.algorithms:
            keys.append(key)
    return keys


def _read_key(data: dict[str, Any]) -> _Key:
    """Read one JWK; no algorithm is for it when it is none to check signatures with."""
    described = msgspec.convert(data, _Jwk)
    ops = described.key_ops
    if described.kty not in _PUBLIC or described.use not in (None, "sig") or not (ops is None or "verify" in ops):
        raise ValueError("it is not for checking signatures")
    public = {"kty": described.kty} | {name: data[name] for name in _PUBLIC[described.kty]}
    if described.kty == "RSA" and int.from_bytes(decode(data["n"])).bit_length() < _SHORTEST_RSA:
        raise ValueError(f"it has less than {_SHORTEST_RSA} bits")
    key = jwk.import_key(public)
    return _Key(described.kid, frozenset(_allowed(key, described.alg)), key)


def _allowed(key: jwk.Key, only: str | None) -> Iterable[str]:
    for name, algorithm in ALGORITHMS.items():
        try:
            algorithm.check_key(key)
        except JoseError:
            continue
        if only is None or ALGORITHMS.get(only) is algorithm:
            yield name


def _fitting(keys: Iterable[_Key], header: Header) -> list[_Key]:
    """Return the keys that a token may be signed with: those of its key id; when it names none, all of its type."""
    return [key for key in keys if header.alg in key.algorithms and header.kid in (None, key.kid)]


def _tell(event: str, keys: list[_Key], **where: str) -> None:
    """Log what keys there are now; none is the issuer's word too, and lets nobody in."""
    (log.info if keys else log.warning)(event, known=len(keys), **where)


class Keys(Protocol):
    """Where an issuer's keys come from."""

    async def fitting(self, header: Header) -> list[_Key]:
        """Return the keys that a token may be signed with.

        Raises:
            CallerUnknown: no key is known at all.
        """

    async def close(self) -> None:
        """Give up what is under way."""


class FileKeys:
    """Keys of a file, read again when it is another one: Kubernetes swaps a mounted Secret by its symlink."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._keys: list[_Key] = []

    async def fitting(self, header: Header) -> list[_Key]:
        """Return the keys that a token may be signed with; see :class:`Keys`."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            self._read()
        if not self._keys:
            raise CallerUnknown(
                "No token can be checked: the JWKS file has no key to check it with. The server's log says why."
            )
        return _fitting(self._keys, header)

    def _look(self) -> tuple[int, ...]:
        try:
            stat = self._path.stat()
        except OSError:
            return ()
        return (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)

    def _read(self) -> None:
        try:
            with self._path.open("rb") as file:
                self._keys = _read_keys(file.read(_LARGEST_ANSWER + 1))
        except (OSError, ValueError, RecursionError) as exc:
            log.warning("keys cannot be read", known=len(self._keys), file=str(self._path), error=str(exc))
        else:
            _tell("keys read", self._keys, file=str(self._path))

    async def close(self) -> None:
        """Do nothing: nothing is under way."""


class WebKeys:
    """Keys that an issuer publishes: fetched once for all who wait, and kept while it is out of reach."""

    def __init__(
        self,
        issuer: str,
        url: URL | None,
        timeout: float,
        trust: ssl.SSLContext | bool,
        clock: Callable[[], float],
    ) -> None:
        self._issuer = issuer
        self._url = url
        self._discovery = None if url else safe_url(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
        self._timeout = timeout
        self._trust = trust
        self._clock = clock
        self._keys: list[_Key] = []
        self._fetched = self._tried = -math.inf
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def fitting(self, header: Header) -> list[_Key]:
        """Return the keys that a token may be signed with; see :class:`Keys`."""
        found = _fitting(self._keys, header)
        if found and self._clock() - self._fetched < _FRESH:
            return found
        task = self._refresh()
        if task and not (found and self._failing):  # who has a key waits no second time for an issuer that is away
            await asyncio.wait([task])  # whoever leaves does not take it along: others wait for it too
            found = _fitting(self._keys, header)
        if not self._keys:
            raise CallerUnknown(
                f"No token can be checked: the keys of {self._issuer} are not known. The server's log says why; "
                "look whether it reaches the issuer.",
                retry_after=math.ceil(_RETRY),
            )
        return found

    def _refresh(self) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, or a new one; None when the last one was just now."""
        pause = _PAUSE if self._keys else _RETRY
        if self._task is None and self._clock() - self._tried >= pause:
            self._task = asyncio.create_task(self._fetch())
        return self._task

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._timeout), self._session() as session:
                self._keys = _read_keys(await _get(session, self._url or await self._discover(session)))
        except Exception as exc:  # whatever was answered: what is known goes on being used
            self._failing = True
            error = str(exc) or type(exc).__name__
            log.warning("keys cannot be fetched", known=len(self._keys), issuer=self._issuer, error=error)
        else:
            self._failing = False
            self._fetched = self._clock()
            _tell("keys fetched", self._keys, issuer=self._issuer)
        finally:
            self._tried = self._clock()
            self._task = None

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            auto_decompress=False,  # a small answer stays small
        )

    async def _discover(self, session: aiohttp.ClientSession) -> URL:
        """Return where the issuer says that its keys are."""
        assert self._discovery is not None  # noqa: S101 - there is one or the other
        found = msgspec.json.decode(await _get(session, self._discovery), type=_Discovery)
        if found.issuer != self._issuer:
            raise ValueError(f"{self._discovery} is about {found.issuer!r}")
        return safe_url(found.jwks_uri)

    async def close(self) -> None:
        """Give up a fetch that is under way."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])


async def _get(session: aiohttp.ClientSession, url: URL) -> bytes:
    """Return what is at a URL; a redirect is followed on the same server only.

    Raises:
        ValueError: it is not there, elsewhere, or larger than an answer may be.
        aiohttp.ClientError: the server cannot be asked.
    """
    for _ in range(_REDIRECTS + 1):
        async with session.get(url, allow_redirects=False) as response:
            if response.status == 200:
                return await _body(response)
            if response.status not in (301, 302, 303, 307, 308):
                raise ValueError(f"{url} answers {response.status}")
            target = url.join(URL(response.headers.get("Location", "")))
            if target.origin() != url.origin():
                raise ValueError(f"{url} leads elsewhere, to {target}")
            url = target
    raise ValueError(f"{url} leads on and on")


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_ANSWER:
            raise ValueError(f"{response.url} is larger than {_LARGEST_ANSWER} bytes")
    return bytes(body)


def safe_url(text: str) -> URL:
    """Return a URL that nobody on the way can answer in place of who is meant.

    Raises:
        ValueError: it is none.
    """
    url = URL(text)
    if url.host and (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))):
        return url
    raise ValueError(f"{text!r} is not HTTPS: whoever is between could hand out keys of their own.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trust(ca: Path | None) -> ssl.SSLContext | bool:
    """Return whose signature an issuer's certificate needs: that of a file, or of the system's authorities.

    Raises:
        ValueError: the file cannot be read.
    """
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as exc:
        raise ValueError(f"The CA certificates {ca} cannot be read: {exc.strerror or exc}.") from None
