"""Tokens of the cluster: the Kubernetes API server authenticates and authorizes the caller.

A ``TokenReview`` returns the user of a bearer token, ``SubjectAccessReview`` which scopes the cluster's RBAC gives that
user: verbs on ``miniclusters/jobs`` in the group ``flux-framework.org``, a resource that exists in rules only. So the
cluster's administrator adds and removes callers with Roles and RoleBindings alone.
"""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass

import msgspec

from sidecar.auth.caller import Caller, Credential, Scope, implied
from sidecar.cluster.account import TOKEN
from sidecar.cluster.client import MAX_REQUESTS, ApiServer
from sidecar.cluster.errors import ApiError
from sidecar.cluster.reviews import Action, Reviews, User
from sidecar.domain.errors import AuthBackendUnavailable

_VERBS: dict[Scope, str] = {"read": "get", "submit": "create", "admin": "update"}


@dataclass(frozen=True, kw_only=True)
class RbacTarget:
    """The object that a caller's RBAC permissions are checked for."""

    namespace: str = ""
    """Empty: the server's own."""
    minicluster: str = ""
    """Name of the object, for rules with ``resourceNames``; empty: any."""


_ANY_MINICLUSTER = RbacTarget()


class Kubernetes:
    """The method ``kubernetes``: bearer tokens of the cluster that this server runs in.

    Args:
        server: the API server; closed with the method.
        audience: required in the token's audiences.
        target: of the permissions.
        cache_ttl: seconds for which a result may be cached.
    """

    name = "kubernetes"
    kinds = frozenset({"bearer"})
    max_concurrent = MAX_REQUESTS

    def __init__(
        self, server: ApiServer, *, audience: str, target: RbacTarget = _ANY_MINICLUSTER, cache_ttl: float = 30.0
    ) -> None:
        self.cache_ttl = cache_ttl
        self._server = server
        self._reviews = Reviews(server)
        self._audience = audience
        self._target = target

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the caller of a token, with the scopes that RBAC gives; there may be none.

        Raises:
            AuthBackendUnavailable: the API server has not answered; the detail says what to check.
        """
        if credential.kind != "bearer" or not TOKEN.fullmatch(credential.secret):
            return None  # no API server can have issued it
        try:
            user = await self._reviews.user(credential.secret, self._audience)
        except ApiError as exc:
            raise self._unavailable(exc, "tokenreviews") from None
        if user is None:
            return None
        return Caller(
            name=user.name, scopes=await self._scopes(user), method=self.name, expires=_expiry(credential.secret)
        )

    async def close(self) -> None:
        """Close the connections to the API server."""
        await self._server.close()

    async def _scopes(self, user: User) -> frozenset[Scope]:
        try:
            async with asyncio.TaskGroup() as group:
                reviews = {scope: group.create_task(self._allowed(user, verb)) for scope, verb in _VERBS.items()}
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the others have the same cause
        return implied(scope for scope, task in reviews.items() if task.result())

    async def _allowed(self, user: User, verb: str) -> bool:
        try:
            namespace = self._target.namespace or self._server.account.read("namespace")
            action = Action(verb, namespace, "flux-framework.org", "miniclusters", "jobs", self._target.minicluster)
            return await self._reviews.allowed(user, action)
        except ApiError as exc:
            raise self._unavailable(exc, "subjectaccessreviews") from None

    def _unavailable(self, exc: ApiError, resource: str) -> AuthBackendUnavailable:
        detail = exc.detail
        if exc.status == 403:
            detail = (
                f"The API server at {self._server.url} has answered 403: the server's service account may not create "
                f"{resource}: bind the ClusterRole system:auth-delegator to it."
            )
        return AuthBackendUnavailable(detail, retry_after=exc.retry_after)


class _Claims(msgspec.Struct, frozen=True):
    exp: float | None = None


def _expiry(token: str) -> float | None:
    """Return the expiry time in a token. It is not verified: it may only shorten how long a result is cached."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = msgspec.json.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)), type=_Claims)
    except (ValueError, RecursionError):  # both decoders' errors are ValueErrors
        return None
    return claims.exp
