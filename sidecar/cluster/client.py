"""The official Kubernetes client (``kubernetes.aio``) over a transport with this server's limits.

The client's API classes and models build requests and read responses. :class:`Transport` sends them in place of the
client's own ``RESTClientObject``, which cannot hold these properties:

* The token and the CA are read anew for each request, in a thread and within a timeout.
* A response is read up to a bound, uncompressed.
* At most :data:`MAX_REQUESTS` requests run at once; a request's timeout includes the wait for its turn.
* Nothing is retried, no redirect is followed, no proxy of the environment is used: tokens go to the API server alone.

Import this module, and what imports it, only where a feature needs it: it adds 30 MB of memory and 0.3 s of CPU time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.api_response import ApiResponse
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import OpenApiException

from sidecar import __version__
from sidecar.cluster.account import ServiceAccount
from sidecar.cluster.errors import ApiError
from sidecar.config.values import SettingsError
from sidecar.runtime import bodies

MAX_REQUESTS = 8
"""Requests that one :class:`ApiServer` sends at the same time."""
MAX_RESPONSE = 1 << 20
"""Bytes that a response may have, unless another limit is given."""

_MAX_RETRY_AFTER = 30  # seconds that callers are asked to wait, whatever the API server asks of this server
_SUCCESS = frozenset({200, 201, 202})
_MALFORMED = (OpenApiException, ValueError, TypeError, AttributeError, LookupError, RecursionError)


class ApiServer:
    """One API server, with the service account by which this server calls it.

    Args:
        url: ``https://HOST[:PORT]``.
        credentials: the directory with the service account's ``token``, ``ca.crt`` and ``namespace``.
        timeout: seconds that one request may take.
        max_response: bytes that a response may have.

    Raises:
        SettingsError: the URL is not https, so that tokens would be sent unencrypted.
    """

    def __init__(self, url: str, credentials: Path, *, timeout: float = 5.0, max_response: int = MAX_RESPONSE) -> None:
        if not url.startswith("https://"):
            raise SettingsError(f"The URL of the Kubernetes API server must start with https://, not {url!r}.")
        self.url = url.rstrip("/")
        self.account = ServiceAccount(credentials)
        self._transport = Transport(self.url, self.account, timeout, max_response)
        self.client = _Client(self.url, self._transport)
        """For the API classes of ``kubernetes.aio.client``; every request raises :class:`ApiError` where it fails."""

    async def close(self) -> None:
        """Close the connections, and end the thread that reads the credentials."""
        self.account.close()
        await self._transport.close()


class Response(NamedTuple):
    """What :class:`ApiClient` uses of a response; the body has been read, and the status is a success."""

    status: int
    data: bytes
    headers: Mapping[str, str] = {"Content-Type": "application/json", "content-type": "application/json"}
    reason: str = ""

    async def read(self) -> bytes:
        """Return the body."""
        return self.data


class Transport:
    """Sends the client's requests.

    Args:
        url: of the API server, for errors.
        account: its token authenticates each request, its CA the API server.
        timeout: seconds that one request may take.
        max_response: bytes that a response may have.
    """

    def __init__(self, url: str, account: ServiceAccount, timeout: float, max_response: int) -> None:
        self._url = url
        self._account = account
        self._timeout = timeout
        self._max_response = max_response
        self._turns = asyncio.Semaphore(MAX_REQUESTS)
        self._session: aiohttp.ClientSession | None = None

    async def request(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: Any = None, **_: object
    ) -> Response:
        """Send a request and return the response.

        Raises:
            ApiError: there is no response, it is too large, or its status is not a success.
        """
        try:
            token, ssl_context = await self._account.credentials()
            async with (
                asyncio.timeout(self._timeout),
                self._turns,
                self._open_session().request(
                    method,
                    url,
                    data=None if body is None else msgspec.json.encode(body),
                    headers={"Content-Type": "application/json", **(headers or {}), "Authorization": f"Bearer {token}"},
                    ssl=ssl_context,
                    allow_redirects=False,
                ) as response,
            ):
                data = await bodies.read(response, self._max_response)
                if response.status not in _SUCCESS:
                    raise self._refused(response, data)
                return Response(response.status, data)
        except bodies.TooLarge:
            why = f"has answered with more than {self._max_response} bytes: check that it is a Kubernetes API server"
        except TimeoutError:
            why = f"has not answered within {self._timeout:g} s: check its load, and NetworkPolicies on the way"
        except aiohttp.ClientConnectorCertificateError as exc:
            why = f"has a certificate that {self._account.path('ca.crt')} does not vouch for: {exc.certificate_error}"
        except (aiohttp.ClientError, OSError) as exc:
            why = f"cannot be reached ({type(exc).__name__}): check its address, and NetworkPolicies on the way"
        raise ApiError(f"The API server at {self._url} {why}.")

    async def close(self) -> None:
        """Close the connections."""
        if self._session:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
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
            401: f"it does not accept the server's service account: check {self._account.path('token')}",
            429: "it has too many requests",
        }
        why = advice.get(response.status, "check its log, and that it is a Kubernetes API server")
        wait = response.headers.get("Retry-After", "")
        return ApiError(
            f"The API server at {self._url} has answered {response.status}: {why}.",
            status=response.status,
            message=_status_message(body),
            retry_after=min(int(wait), _MAX_RETRY_AFTER) if re.fullmatch("[0-9]{1,9}", wait) else 1,
        )


class _Client(ApiClient):
    """The official client; a response that does not fit its model is an :class:`ApiError`."""

    def __init__(self, url: str, transport: Transport) -> None:
        super().__init__(Configuration(host=url))
        self.rest_client = transport  # type: ignore[assignment] # it has all that ApiClient uses
        self.user_agent = f"flux-sidecar/{__version__}"
        self._url = url

    def response_deserialize(
        self, response_data: Any, response_types_map: dict[str, Any] | None = None
    ) -> ApiResponse[Any]:
        kind = (response_types_map or {}).get(str(response_data.status))
        try:
            if kind:
                return super().response_deserialize(response_data, response_types_map)
        except _MALFORMED:
            pass  # raised below, so that the body, which may hold a token, is not the error's context
        raise ApiError(malformed(self._url, kind or "response"))


def malformed(url: str, kind: str) -> str:
    """Return the detail of an error about a response that is not of the kind that was requested."""
    return f"The response of {url} is not a valid {kind}: check that it is a Kubernetes API server."


class _Status(msgspec.Struct):
    message: str = ""


def _status_message(body: bytes) -> str:
    """Return the message of a Status object; empty if the body is not one."""
    try:
        return msgspec.json.decode(body, type=_Status).message
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
