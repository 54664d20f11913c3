"""The public keys of an issuer (its JWKS), from a file or from where the issuer publishes them.

What is fetched is kept, asked for again when a token names a key that is not known, and never so often that somebody
who invents key ids could make this server hammer the issuer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import ssl
from collections.abc import Callable
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

_FRESH = 3600.0  # after so many seconds keys are asked for again: a key that was withdrawn is good no longer
_PAUSE = 30.0  # between two fetches: tokens with invented key ids must not make us hammer the issuer
_RETRY = 2.0  # the same while no key is known at all, and nobody can be let in
_REDIRECTS = 3


class _Discovery(msgspec.Struct):
    """What is read of an issuer's description of itself."""

    issuer: str
    jwks_uri: str


def _tell(event: str, keys: list[Key], **where: str) -> None:
    """Log what keys there are now; none is the issuer's word too, and lets nobody in."""
    (log.info if keys else log.warning)(event, known=len(keys), **where)


class Keys(Protocol):
    """Where an issuer's keys come from."""

    async def fitting(self, header: Header) -> list[Key]:
        """Return the keys that a token may be signed with.

        Raises:
            CallerUnknown: no key is known at all.
        """

    async def close(self) -> None:
        """Give up what is under way."""


class _Found(NamedTuple):
    """What a look at the file has found; None where it is the one that was seen before."""

    signature: Signature
    keys: list[Key] | Exception | None


class FileKeys:
    """Keys of a file, read again when it is another one: Kubernetes swaps a mounted Secret by its symlink."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Signature | None = None
        self._keys: list[Key] = []
        self._thread = FileThread[_Found](path)
        self._hangs = False

    async def fitting(self, header: Header) -> list[Key]:
        """Return the keys that a token may be signed with; see :class:`Keys`."""
        try:
            self._take(await self._thread.run(self._look))
            self._hangs = False
        except ReadTimeout as exc:  # the known keys go on
            if not self._hangs:
                self._hangs = True
                self._warn(exc)
        if not self._keys:
            raise AuthBackendUnavailable(
                "No token can be checked: the JWKS file has no key to check it with. The server's log says why."
            )
        return fitting_keys(self._keys, header)

    def _look(self) -> _Found:
        """Look, in a thread, whether the file is another one, and read it then."""
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
            _tell("keys read", self._keys, file=str(self._path))

    def _warn(self, error: Exception) -> None:
        log.warning("keys cannot be read", known=len(self._keys), file=str(self._path), error=str(error))

    async def close(self) -> None:
        """End the thread that looks."""
        self._thread.close()


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
        if task and not (found and self._failing):  # who has a key waits no second time for an issuer that is away
            await asyncio.wait([task])  # whoever leaves does not take it along: others wait for it too
            found = fitting_keys(self._keys, header)
        if not self._keys:
            raise AuthBackendUnavailable(
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
                self._keys = read_keys(await _get(session, self._url or await self._discover(session)))
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
            headers={"Accept": "application/json", **bodies.UNCOMPRESSED},
            auto_decompress=False,
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
                return await bodies.read(response, LARGEST)
            if response.status not in (301, 302, 303, 307, 308):
                raise ValueError(f"{url} answers {response.status}")
            target = url.join(URL(response.headers.get("Location", "")))
            if target.origin() != url.origin():
                raise ValueError(f"{url} leads elsewhere, to {target}")
            url = target
    raise ValueError(f"{url} leads on and on")


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

    def load() -> ssl.SSLContext:
        read_small(ca)
        return ssl.create_default_context(cafile=ca)

    try:
        return run_with_timeout(load, ca)
    except OSError as exc:
        raise ValueError(f"The CA certificates {ca} cannot be read: {exc.strerror or exc}.") from None
