"""Callers, scopes, credentials, and the interface of an authentication method."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal, Protocol, get_args

import msgspec

from sidecar.config.access import Scope as Scope
from sidecar.domain.errors import Forbidden

SCOPES: tuple[Scope, ...] = get_args(Scope)
_IMPLIED: dict[Scope, frozenset[Scope]] = {
    scope: frozenset(SCOPES[: number + 1]) for number, scope in enumerate(SCOPES)
}

#: Flux accepts a higher urgency from the instance's owner only (flux-submit(1), --urgency).
HIGHEST_URGENCY = 16


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller."""

    name: str
    """Submitter of the caller's jobs, and the caller in the log; empty without authentication."""
    scopes: frozenset[Scope]
    method: str
    """Method that authenticated the caller: token, user, login, kubernetes, oidc, socket, certificate,
    none."""
    expires: float | None = None
    """Expiry of the credential (Unix seconds)."""

    def require(self, scope: Scope) -> None:
        """Require a scope.

        Raises:
            Forbidden: the caller does not have it.
        """
        if scope not in self.scopes:
            has = ", ".join(name for name in SCOPES if name in self.scopes) or "none"
            raise Forbidden(f"This needs the scope {scope}; {self.name or 'this caller'} has {has}.")

    def owns(self, submitter: str) -> bool:
        """Whether the caller may change a job: an admin may change all jobs, others the jobs that they submitted.

        Args:
            submitter: of the job.
        """
        return "admin" in self.scopes or bool(self.name and submitter == self.name)

    def require_own(self, submitter: str, what: str) -> None:
        """Require that the caller may change an object.

        Args:
            submitter: of the object.
            what: names the object in the error.

        Raises:
            Forbidden: another caller submitted it, and this one lacks the scope admin.
        """
        if not self.owns(submitter):
            whose = f"submitted by {submitter}" if submitter else "not submitted by way of this server"
            raise Forbidden(f"{what} was {whose}: to change it needs the scope admin.")

    def require_urgency(self, urgency: int | None) -> None:
        """Require the scope admin for an urgency above :data:`HIGHEST_URGENCY`.

        Raises:
            Forbidden: the caller does not have it.
        """
        if urgency is not None and urgency > HIGHEST_URGENCY and "admin" not in self.scopes:
            raise Forbidden(f"urgency: above {HIGHEST_URGENCY} needs the scope admin.")


def implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return scopes with all that they imply: submit implies read, admin implies both."""
    return frozenset().union(*(_IMPLIED[scope] for scope in scopes))


def listed(scopes: frozenset[Scope]) -> list[Scope]:
    """Return scopes in their order, the weakest first."""
    return [scope for scope in SCOPES if scope in scopes]


class Credential(msgspec.Struct, frozen=True):
    """A credential of a request: a bearer token, or a name and a password."""

    kind: Literal["bearer", "password"]
    secret: str
    name: str = ""

    def digest(self) -> bytes:
        """Return the cache key of a credential: caches do not store the secret itself."""
        return hashlib.sha256(f"{self.kind}\0{self.name}\0{self.secret}".encode(errors="surrogatepass")).digest()

    def __repr__(self) -> str:
        return f"Credential({self.kind})"  # no secrets in logs and tracebacks


class Method(Protocol):
    """An authentication method."""

    name: str
    kinds: frozenset[str]
    """The kinds of credentials that it supports."""
    cache_ttl: float
    """Seconds for which a result may be cached, but not beyond the credential's expiry."""
    max_concurrent: int
    """Number of concurrent checks; 0: unlimited, for a method that uses neither a remote server nor a thread."""

    async def identify(self, credential: Credential) -> Caller | None:
        """Return the caller of a credential; None if it is not valid for this method.

        Raises:
            Unavailable: the method's backend is unavailable.
        """
