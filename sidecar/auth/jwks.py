"""The public keys of an issuer (its JWKS), from a file or from the issuer's URL.

Fetched keys are cached. A token with an unknown key ID triggers a new fetch; a minimum interval between fetches
protects the issuer from tokens with invented key IDs.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import aiohttp
import msgspec
import structlog
from yarl import URL

from sidecar.auth.keys import LARGEST, Header, Key, fitting_keys, read_keys
from sidecar.domain.errors import AuthBackendUnavailable
from sidecar.runtime import bodies
from sidecar.runtime.files import FileThread, ReadTimeout, read_small, run_with_timeout
from sidecar.runtime.filewatch import Signature, signature

log = structlog.get_logger("oidc")

_FRESH = 3600.0  # seconds until the keys are fetched again, so that withdrawn keys expire
_PAUSE = 30.0  # minimum seconds between two fetches: tokens with invented key IDs must not overload the issuer
_RETRY = 2.0  # the same while no key is known and every token is rejected
_REDIRECTS = 3


class _Discovery(msgspec.Struct):
    """The used fields of an issuer's discovery document."""

    issuer: str
    jwks_uri: str


def _log_keys(event: str, keys: list[Key], **where: str) -> None:
    """Log the number of keys. An empty JWKS is valid: it rejects all tokens."""
    (log.info if keys else log.warning)(event, known=len(keys), **where)


class Keys(Protocol):
    """A source of an issuer's keys."""

    async def fitting(self, header: Header) -> list[Key]:
        """Return the keys that a token may be signed with.

        Raises:
            AuthBackendUnavailable: no key is known.
        """

    async def close(self) -> None:
        """Cancel a fetch or read in progress."""


@dataclass(frozen=True, kw_only=True)
class IssuerSettings:
    """An issuer, and the source of its keys."""

    url: str
    jwks: str = ""
    """URL or path of the keys; empty: from the issuer's ``/.well-known/openid-configuration``."""
    ca: Path | None = None
    """File with the CA certificates of the issuer's TLS certificate; None: the system's authorities."""
    timeout: float = 5.0
    """Timeout of a fetch of the keys, in seconds."""


def open_keys(issuer: IssuerSettings, clock: Callable[[], float]) -> Keys:
    """Return the source of an issuer's keys.

    Args:
        issuer: its settings.
        clock: returns the monotonic time in seconds, for fetches.

    Raises:
        ValueError: a URL is not safe, or the CA certificates cannot be read.
    """
    if issuer.jwks and "://" not in issuer.jwks:
        return FileKeys(Path(issuer.jwks))
    return WebKeys(issuer, clock)


class _Found(NamedTuple):
    """Result of a check of the file; its keys are None if the file is unchanged."""

    signature: Signature
    keys: list[Key] | Exception | None


class FileKeys:
    """Keys of a file, read again when it is replaced: Kubernetes replaces a mounted Secret by its symlink."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Signature | None = None
        self._keys: list[Key] = []
        self._thread = FileThread[_Found](path)
        self._hangs = False

    async def fitting(self, header: Header) -> list[Key]:
        """Return the keys that a token may be signed with; see :class:`Keys`."""
        try:
            self._take(await self._thread.run(self._check))
            self._hangs = False
        except ReadTimeout as exc:  # continue with the known keys
            if not self._hangs:
                self._hangs = True
                self._warn(exc)
        if not self._keys:
            raise AuthBackendUnavailable(
                "No token can be checked: the JWKS file has no key to check it with. The server's log says why."
            )
        return fitting_keys(self._keys, header)

    def _check(self) -> _Found:
        """Read the file if it has changed. Runs in a thread."""
        seen = signature(self._path)
        if seen == self._seen:
            return _Found(seen, None)
        try:
            return _Found(seen, read_keys(read_small(self._path, LARGEST)))
        except (OSError, ValueError, RecursionError) as exc:
            return _Found(seen, exc)

    def _take(self, found: _Found) -> None:
        if found.signature == self._seen or found.keys is None:
            return
        self._seen = found.signature
        if isinstance(found.keys, Exception):
            self._warn(found.keys)
        else:
            self._keys = found.keys
            _log_keys("keys read", self._keys, file=str(self._path))

    def _warn(self, error: Exception) -> None:
        log.warning("keys cannot be read", known=len(self._keys), file=str(self._path), error=str(error))

    async def close(self) -> None:
        """Stop the thread that reads the file."""
        self._thread.close()


class WebKeys:
    """Keys that an issuer publishes: fetched once for all waiters, and kept while the issuer is unreachable.

    Args:
        issuer: its settings; ``jwks`` is a URL, or empty.
        clock: returns the monotonic time in seconds.

    Raises:
        ValueError: a URL is not safe, or the CA certificates cannot be read.
    """

    def __init__(self, issuer: IssuerSettings, clock: Callable[[], float]) -> None:
        self._issuer = issuer.url
        self._url = _safe_url(issuer.jwks or f"{issuer.url.rstrip('/')}/.well-known/openid-configuration")
        self._discovers = not issuer.jwks
        self._timeout = issuer.timeout
        self._trust = trust(issuer.ca)
        self._clock = clock
        self._keys: list[Key] = []
        self._fetched = self._tried = -math.inf
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def fitting(self, header: Header) -> list[Key]:
        """Return the keys that a token may be signed with; see :class:`Keys`."""
        found = fitting_keys(self._keys, header)
        if found and self._clock() - self._fetched < _FRESH:
            return found
        task = self._refresh()
        if task and not (found and self._failing):  # with a known key, do not wait again after a failure
            await asyncio.wait([task])  # cancelling one waiter must not cancel the fetch of the others
            found = fitting_keys(self._keys, header)
        if not self._keys:
            raise AuthBackendUnavailable(
                f"No token can be checked: the keys of {self._issuer} are not known. The server's log says why; "
                "look whether it reaches the issuer.",
                retry_after=math.ceil(_RETRY),
            )
        return found

    def _refresh(self) -> asyncio.Task[None] | None:
        """Return the fetch in progress, or start one; None if the last one ended less than the interval ago."""
        pause = _PAUSE if self._keys else _RETRY
        if self._task is None and self._clock() - self._tried >= pause:
            self._task = asyncio.create_task(self._fetch())
        return self._task

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(self._timeout), self._session() as session:
                url = await self._discover(session) if self._discovers else self._url
                self._keys = read_keys(await _get(session, url))
        except Exception as exc:  # whatever the response: continue with the known keys
            self._failing = True
            error = str(exc) or type(exc).__name__
            log.warning("keys cannot be fetched", known=len(self._keys), issuer=self._issuer, error=error)
        else:
            self._failing = False
            self._fetched = self._clock()
            _log_keys("keys fetched", self._keys, issuer=self._issuer)
        finally:
            self._tried = self._clock()
            self._task = None

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._trust),
            headers={"Accept": "application/json", **bodies.UNCOMPRESSED},
            auto_decompress=False,
        )

    async def _discover(self, session: aiohttp.ClientSession) -> URL:
        """Return the URL of the JWKS from the issuer's discovery document."""
        found = msgspec.json.decode(await _get(session, self._url), type=_Discovery)
        if found.issuer != self._issuer:
            raise ValueError(f"{self._url} is about {found.issuer!r}")
        return _safe_url(found.jwks_uri)

    async def close(self) -> None:
        """Cancel a fetch in progress."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])


async def _get(session: aiohttp.ClientSession, url: URL) -> bytes:
    """Return the body at a URL; redirects are followed within the same origin only.

    Raises:
        ValueError: the status is not 200, a redirect leaves the origin, or the body is too large.
        aiohttp.ClientError: the request failed.
    """
    for _ in range(_REDIRECTS + 1):
        async with session.get(url, allow_redirects=False) as response:
            if response.status == 200:
                return await bodies.read(response, LARGEST)
            if response.status not in (301, 302, 303, 307, 308):
                raise ValueError(f"{url} answers {response.status}")
            target = url.join(URL(response.headers.get("Location", "")))
            if target.origin() != url.origin():
                raise ValueError(f"{url} leads elsewhere, to {target}")
            url = target
    raise ValueError(f"{url} leads on and on")


def _safe_url(text: str) -> URL:
    """Return a URL for which a man in the middle cannot forge responses: HTTPS, or HTTP to loopback.

    Raises:
        ValueError: it is another URL.
    """
    url = URL(text)
    if url.host and (url.scheme == "https" or (url.scheme == "http" and _is_loopback(url.host))):
        return url
    raise ValueError(f"{text!r} is not HTTPS: a man in the middle could replace the keys.")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trust(ca: Path | None) -> ssl.SSLContext | bool:
    """Return the TLS trust for an issuer's certificate.

    Args:
        ca: file with the CA certificates; None: the system's authorities.

    Raises:
        ValueError: the file cannot be read.
    """
    if ca is None:
        return True

    def load() -> ssl.SSLContext:
        read_small(ca)
        return ssl.create_default_context(cafile=ca)

    try:
        return run_with_timeout(load, ca)
    except OSError as exc:
        raise ValueError(f"The CA certificates {ca} cannot be read: {exc.strerror or exc}.") from None
