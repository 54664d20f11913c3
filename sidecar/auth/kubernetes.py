"""Who is calling, as the cluster says it: tokens and permissions are judged by the Kubernetes API server alone.

A ``TokenReview`` says whose a bearer token is, ``SubjectAccessReview`` which scopes the cluster's RBAC gives them:
verbs on ``miniclusters/jobs`` in the group ``flux-framework.org``, a resource that exists in rules only. So whoever
runs the cluster adds and removes callers with Roles and RoleBindings, and nothing of it is configured twice.
"""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from sidecar.auth.caller import Caller, Credential, Scope, implied
from sidecar.cluster.client import AT_ONCE, TOKEN, ApiError, ApiServer
from sidecar.domain.errors import AuthBackendUnavailable

S = TypeVar("S")

_VERBS: dict[Scope, str] = {"read": "get", "submit": "create", "admin": "update"}


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
        cache_ttl: for how many seconds an answer may be kept.
        timeout: how many seconds one call to the API server may take.

    Raises:
        SettingsError: tokens would be sent in the clear.
    """

    name = "kubernetes"
    kinds = frozenset({"bearer"})
    max_concurrent = AT_ONCE

    def __init__(
        self,
        *,
        api: str,
        credentials: Path,
        audience: str,
        namespace: str = "",
        minicluster: str = "",
        cache_ttl: float = 30.0,
        timeout: float = 5.0,
    ) -> None:
        self.cache_ttl = cache_ttl
        self._server = ApiServer(api, credentials, timeout=timeout)
        self._audience = audience
        self._namespace = namespace
        self._minicluster = minicluster

    async def identify(self, credential: Credential) -> Caller | None:
        """Return whose token it is, with the scopes that RBAC gives them, which may be none.

        Raises:
            CallerUnknown: the API server does not say; the detail tells what to look at.
        """
        if credential.kind != "bearer" or not TOKEN.fullmatch(credential.secret):
            return None  # what no API server can have issued is not worth a call
        spec = {"token": credential.secret, "audiences": [self._audience]}
        found = await self._ask("authentication.k8s.io", "TokenReview", spec, _Review[_TokenStatus])
        # An API server that ignores audiences names none: then the token may be for any service of the cluster.
        if not found.authenticated or self._audience not in found.audiences:
            return None
        if not found.user.username:
            raise AuthBackendUnavailable(
                f"The API server at {self._server.url} knows a token, and gives its user no name."
            )
        return Caller(
            name=found.user.username,
            scopes=await self._scopes(found.user),
            method=self.name,
            expires=_expiry(credential.secret),
        )

    async def close(self) -> None:
        """Close the connections to the API server."""
        await self._server.close()

    async def _scopes(self, user: _User) -> frozenset[Scope]:
        try:
            async with asyncio.TaskGroup() as group:
                asked = {scope: group.create_task(self._may(user, verb)) for scope, verb in _VERBS.items()}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # one is enough to say what is wrong
        return implied(scope for scope, task in asked.items() if task.result())

    async def _may(self, user: _User, verb: str) -> bool:
        attributes = {
            "namespace": self._namespace or self._own_namespace(),
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
            raise AuthBackendUnavailable(
                f"What {self._server.url} has answered is no {kind}: is it a Kubernetes API server?"
            )
        return answer.status

    def _own_namespace(self) -> str:
        try:
            return self._server.account.read("namespace")
        except ApiError as exc:
            raise AuthBackendUnavailable(exc.detail) from None

    async def _post(self, path: str, body: bytes, resource: str) -> bytes:
        try:
            return await self._server.ask("POST", path, body)
        except ApiError as exc:
            detail = exc.detail
            if exc.status == 403:
                detail = (
                    f"The API server at {self._server.url} has answered 403: the server's service account may not "
                    f"create {resource}: bind the ClusterRole system:auth-delegator to it."
                )
            raise AuthBackendUnavailable(detail, retry_after=exc.retry_after) from None


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
