"""The Kubernetes API server, asked by the server's own service account.

The official client is 126 MB on disk and 55 MB of memory: not worth a handful of requests, which aiohttp makes as well.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from sidecar.config.values import SettingsError
from sidecar.runtime import bodies
from sidecar.runtime.files import Looks, NotSmall, ReadTimeout, read_small

TOKEN = re.compile(r"[!-~]{1,16384}")
"""What a bearer token can be; no API server can have issued anything else."""

AT_ONCE = 8
"""How many requests one :class:`ApiServer` sends at the same time."""
MOST = 1 << 20
"""Bytes that an answer may have, unless more is asked for."""

_READ = 2.0  # seconds in which the files of the service account have to be read
_LONGEST_WAIT = 30  # seconds that callers are told to wait, whatever the API server asks of us
_SUCCESS = frozenset({200, 201, 202})


class ApiError(Exception):
    """The API server has not done what it was asked; no credential is ever part of this.

    Args:
        detail: why, with what to look at; of an answer only what its status says.
        status: what it has answered; 0: nothing.
        body: of the answer, a Status object as a rule.
        retry_after: when to ask again, in seconds.
    """

    def __init__(self, detail: str, *, status: int = 0, body: bytes = b"", retry_after: int = 1) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.body = body
        self.retry_after = retry_after


class ApiServer:
    """One API server.

    Args:
        url: where it is (``https://…``).
        credentials: the directory with the server's own ``token``, ``ca.crt`` and ``namespace``.
        timeout: how many seconds one request may take.

    Raises:
        SettingsError: tokens would be sent in the clear.
    """

    def __init__(self, url: str, credentials: Path, *, timeout: float = 5.0) -> None:
        if not url.startswith("https://"):
            raise SettingsError(f"The Kubernetes API server has to be reached by https://, not at {url!r}.")
        self.url = url.rstrip("/")
        self.account = Account(credentials)
        self._timeout = timeout
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        kind: str = "application/json",
        query: Mapping[str, str] | None = None,
        most: int = MOST,
    ) -> bytes:
        """Send a request and return the answer's body, which is JSON of a kind that only the caller knows.

        Args:
            method: of HTTP.
            path: below the API server's URL.
            body: of the request.
            kind: its media type.
            query: parameters of the URL.
            most: bytes that the answer may have, success or not.

        Raises:
            ApiError: there is no answer, it is too large, or it is no success.
        """
        try:
            token, trust = await self.account.credentials()
            async with (
                asyncio.timeout(self._timeout),  # with the wait for a slot: no caller waits longer than for one call
                self._slots,
                self._http().request(
                    method,
                    self.url + path,
                    params=query,
                    data=body,
                    headers={"Authorization": f"Bearer {token}", "Content-Type": kind},
                    ssl=trust,
                    allow_redirects=False,  # tokens go to the API server and to nobody else
                ) as response,
            ):
                answer = await bodies.read(response, most)
                if response.status not in _SUCCESS:
                    raise self._refused(response, answer)
                return answer
        except bodies.TooLarge:
            why = f"has answered with more than {most} bytes: look whether it is a Kubernetes API server at all"
        except TimeoutError:
            why = f"has not answered within {self._timeout:g} s: look at its load, and at NetworkPolicies on the way"
        except aiohttp.ClientConnectorCertificateError as exc:
            why = f"has a certificate that {self.account.path('ca.crt')} does not vouch for: {exc.certificate_error}"
        except (aiohttp.ClientError, OSError) as exc:
            why = f"cannot be reached ({type(exc).__name__}): look at its address, and at NetworkPolicies on the way"
        raise ApiError(f"The API server at {self.url} {why}.")

    async def close(self) -> None:
        """Close the connections, and end the thread that reads the credentials."""
        self.account.close()
        if self._session:
            await self._session.close()

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                headers=bodies.UNCOMPRESSED,
                auto_decompress=False,
            )
        return self._session

    def _refused(self, response: aiohttp.ClientResponse, body: bytes) -> ApiError:
        advice = {
            401: f"it does not know the server's service account: look at {self.account.path('token')}",
            429: "it has too much to do",
        }
        why = advice.get(response.status, "look at its log, and whether it is a Kubernetes API server at all")
        wait = response.headers.get("Retry-After", "")
        return ApiError(
            f"The API server at {self.url} has answered {response.status}: {why}.",
            status=response.status,
            body=body,
            retry_after=min(int(wait), _LONGEST_WAIT) if re.fullmatch("[0-9]{1,9}", wait) else 1,
        )


class Account:
    """The server's own service account, as it is mounted; read anew each time, since Kubernetes rotates all of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pem = ""
        self._context: ssl.SSLContext | None = None
        self._looks = Looks[tuple[str, ssl.SSLContext]](directory, _READ)

    async def credentials(self) -> tuple[str, ssl.SSLContext]:
        """Return the current token and CA; a file system that does not answer delays only this call.

        Raises:
            ApiError: they cannot be used.
        """
        try:
            return await self._looks.look(lambda: (self.token(), self.trust()))
        except ReadTimeout as exc:
            raise ApiError(f"{exc}. The server's service account is mounted there.") from None

    def close(self) -> None:
        """End the thread that reads."""
        self._looks.close()

    def path(self, name: str) -> Path:
        """Return where one of its files is."""
        return self._directory / name

    def read(self, name: str) -> str:
        """Return the text of one of its files.

        Raises:
            ApiError: it cannot be used.
        """
        try:
            text = read_small(self.path(name)).decode("ascii").strip()
        except NotSmall as exc:
            raise self._unusable(name, exc.why) from None
        except OSError as exc:
            raise self._unusable(name, exc.strerror or type(exc).__name__) from None
        except UnicodeDecodeError:
            raise self._unusable(name, "not a text") from None
        if not text:
            raise self._unusable(name, "empty")
        return text

    def token(self) -> str:
        """Return its token of now; raises as :meth:`read` does."""
        token = self.read("token")
        if not TOKEN.fullmatch(token):
            raise self._unusable("token", "not a token")
        return token

    def trust(self) -> ssl.SSLContext:
        """Return a context that trusts the cluster's CA and no other; the same one until the CA changes."""
        pem = self.read("ca.crt")
        if self._context is None or pem != self._pem:
            # Not create_default_context: from Python 3.13 on it refuses the CAs of many clusters, for they lack
            # extensions that RFC 5280 wants.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                context.load_verify_locations(cadata=pem)
            except (ssl.SSLError, ValueError):
                raise self._unusable("ca.crt", "not a certificate") from None
            self._context, self._pem = context, pem
        return self._context

    def _unusable(self, name: str, why: str) -> ApiError:
        return ApiError(
            f"{self.path(name)}: {why}. The server's service account is not mounted as it should be: "
            "look at serviceAccountName and automountServiceAccountToken of its pod."
        )
