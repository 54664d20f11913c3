"""Who is calling, as the cluster says it: tokens and permissions are judged by the Kubernetes API server alone.

A ``TokenReview`` says whose a bearer token is, ``SubjectAccessReview`` which scopes the cluster's RBAC gives them:
verbs on ``miniclusters/jobs`` in the group ``flux-framework.org``, a resource that exists in rules only. So whoever
runs the cluster adds and removes callers with Roles and RoleBindings, and nothing of it is configured twice.

The official client is 126 MB on disk and 55 MB of memory: not worth two POSTs, which aiohttp makes as well.
"""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from pathlib import Path
from typing import Any, Generic, TypeVar

import aiohttp
import msgspec

from sidecar.auth.caller import Caller, Credential, Scope, implied
from sidecar.errors import CallerUnknown
from sidecar.options import SettingsError

S = TypeVar("S")

_TOKEN = re.compile(r"[!-~]{1,16384}")  # what no API server can have issued is not worth a call
_VERBS: dict[Scope, str] = {"read": "get", "submit": "create", "admin": "update"}
_AT_ONCE = 8
_LONGEST_WAIT = 30  # seconds that callers are told to wait, whatever the API server asks of us


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    uid: str = ""
    groups: list[str] = []
    extra: dict[str, list[str]] = {}


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False  # left out when it is false
    user: _User = _User()
    audiences: list[str] = []


class _AccessStatus(msgspec.Struct, frozen=True):
    allowed: bool


class _Review(msgspec.Struct, Generic[S], frozen=True):
    kind: str
    status: S


class _Claims(msgspec.Struct, frozen=True):
    exp: float | None = None


class Kubernetes:
    """The method ``kubernetes``: bearer tokens of the cluster that this server runs in.

    Args:
        api: where the API server is (``https://…``).
        credentials: the directory with the server's own ``token``, ``ca.crt`` and ``namespace``.
        audience: what a token has to be issued for.
        namespace: where permissions are looked up; empty: the server's own.
        minicluster: whose jobs they are about, for rules with ``resourceNames``; empty: those of any.
        keeps: for how many seconds an answer may be kept.
        timeout: how many seconds one call to the API server may take.

    Raises:
        SettingsError: tokens would be sent in the clear.
    """

    name = "kubernetes"
    kinds = frozenset({"bearer"})

    def __init__(
        self,
        *,
        api: str,
        credentials: Path,
        audience: str,
        namespace: str = "",
        minicluster: str = "",
        keeps: float = 30.0,
        timeout: float = 5.0,
    ) -> None:
        if not api.startswith("https://"):
            raise SettingsError(f"The Kubernetes API server has to be reached by https://, not at {api!r}.")
        self.keeps = keeps
        self._api = api.rstrip("/")
        self._account = _Account(credentials)
        self._audience = audience
        self._namespace = namespace
        self._minicluster = minicluster
        self._timeout = timeout
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._session: aiohttp.ClientSession | None = None

    async def identify(self, credential: Credential) -> Caller | None:
        """Return whose token it is, with the scopes that RBAC gives them, which may be none.

        Raises:
            CallerUnknown: the API server does not say; the detail tells what to look at.
        """
        if credential.kind != "bearer" or not _TOKEN.fullmatch(credential.secret):
            return None
        spec = {"token": credential.secret, "audiences": [self._audience]}
        found = await self._ask("authentication.k8s.io", "TokenReview", spec, _Review[_TokenStatus])
        # An API server that ignores audiences names none: then the token may be for any service of the cluster.
        if not found.authenticated or self._audience not in found.audiences:
            return None
        if not found.user.username:
            raise CallerUnknown(f"The API server at {self._api} knows a token, and gives its user no name.")
        return Caller(
            name=found.user.username,
            scopes=await self._scopes(found.user),
            method=self.name,
            expires=_expiry(credential.secret),
        )

    async def close(self) -> None:
        """Close the connections to the API server."""
        if self._session:
            await self._session.close()

    async def _scopes(self, user: _User) -> frozenset[Scope]:
        try:
            async with asyncio.TaskGroup() as group:
                asked = {scope: group.create_task(self._may(user, verb)) for scope, verb in _VERBS.items()}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # one is enough to say what is wrong
        return implied(scope for scope, task in asked.items() if task.result())

    async def _may(self, user: _User, verb: str) -> bool:
        attributes = {
            "namespace": self._namespace or self._account.read("namespace"),
            "group": "flux-framework.org",
            "resource": "miniclusters",
            "subresource": "jobs",
            "name": self._minicluster,
            "verb": verb,
        }
        spec = {
            "user": user.username,
            "uid": user.uid,
            "groups": user.groups,
            "extra": user.extra,
            "resourceAttributes": attributes,
        }
        found = await self._ask("authorization.k8s.io", "SubjectAccessReview", spec, _Review[_AccessStatus])
        return found.allowed

    async def _ask(self, group: str, kind: str, spec: dict[str, Any], filled: type[_Review[S]]) -> S:
        """Let the API server fill in a review, and return its status."""
        version = f"{group}/v1"
        resource = f"{kind.lower()}s"
        review = {"apiVersion": version, "kind": kind, "spec": spec}
        raw = await self._post(f"/apis/{version}/{resource}", msgspec.json.encode(review), resource)
        answer = _decode(raw, filled)
        if answer is None or answer.kind != kind:
            raise CallerUnknown(f"What {self._api} has answered is no {kind}: is it a Kubernetes API server?")
        return answer.status

    async def _post(self, path: str, body: bytes, resource: str) -> bytes:
        try:
            async with (
                asyncio.timeout(self._timeout),  # with the wait for a slot: no caller waits longer than for one call
                self._slots,
                self._http().post(
                    self._api + path,
                    data=body,
                    headers=self._headers(),
                    ssl=self._account.trust(),
                    allow_redirects=False,  # tokens go to the API server and to nobody else
                ) as response,
            ):
                if response.status not in (200, 201):
                    raise self._refused(response, resource)
                return await response.read()
        except TimeoutError:
            why = f"has not answered within {self._timeout:g} s: look at its load, and at NetworkPolicies on the way"
        except aiohttp.ClientConnectorCertificateError as exc:
            why = f"has a certificate that {self._account.path('ca.crt')} does not vouch for: {exc.certificate_error}"
        except (aiohttp.ClientError, OSError) as exc:
            why = f"cannot be reached ({type(exc).__name__}): look at its address, and at NetworkPolicies on the way"
        raise CallerUnknown(f"The API server at {self._api} {why}.")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._account.token()}", "Content-Type": "application/json"}

    def _http(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None)
            )
        return self._session

    def _refused(self, response: aiohttp.ClientResponse, resource: str) -> CallerUnknown:
        advice = {
            401: f"it does not know the server's service account: look at {self._account.path('token')}",
            403: f"the server's service account may not create {resource}: "
            "bind the ClusterRole system:auth-delegator to it",
            429: "it has too much to do",
        }
        why = advice.get(response.status, "look at its log, and whether it is a Kubernetes API server at all")
        wait = response.headers.get("Retry-After", "")
        return CallerUnknown(
            f"The API server at {self._api} has answered {response.status}: {why}.",
            retry_after=min(int(wait), _LONGEST_WAIT) if re.fullmatch("[0-9]{1,9}", wait) else 1,
        )


class _Account:
    """The server's own service account, as it is mounted; read anew each time, since Kubernetes rotates all of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pem = ""
        self._context: ssl.SSLContext | None = None

    def path(self, name: str) -> Path:
        return self._directory / name

    def read(self, name: str) -> str:
        try:
            text = self.path(name).read_text("ascii").strip()
        except OSError as exc:
            raise self._unusable(name, exc.strerror or type(exc).__name__) from None
        except UnicodeDecodeError:
            raise self._unusable(name, "not a text") from None
        if not text:
            raise self._unusable(name, "empty")
        return text

    def token(self) -> str:
        token = self.read("token")
        if not _TOKEN.fullmatch(token):
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

    def _unusable(self, name: str, why: str) -> CallerUnknown:
        return CallerUnknown(
            f"{self.path(name)}: {why}. The server's service account is not mounted as it should be: "
            "look at serviceAccountName and automountServiceAccountToken of its pod."
        )


def _decode(raw: bytes, kind: type[S]) -> S | None:
    """Return JSON as a type; None when it is not."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _expiry(token: str) -> float | None:
    """Return when a token says that it ends. It is not verified: it may only shorten how long an answer is kept."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
    except ValueError:
        return None
    claims = _decode(raw, _Claims)
    return claims.exp if claims else None
