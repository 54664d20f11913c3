"""Callers, their scopes, and what a method of telling one from another has to be."""

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

#: Above it Flux itself lets only the instance's owner go (flux-submit(1), --urgency).
HIGHEST_URGENCY = 16


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is let in."""

    name: str
    """What their jobs say as submitter, and the log as caller; empty when nobody is asked who they are."""
    scopes: frozenset[Scope]
    method: str
    """How they were told: token, login, kubernetes, oidc, socket, certificate, none."""
    expires: float | None = None
    """When what they have shown ends (Unix seconds)."""

    def require(self, scope: Scope) -> None:
        """Let a caller through who has a scope.

        Raises:
            Forbidden: they have not.
        """
        if scope not in self.scopes:
            has = ", ".join(name for name in SCOPES if name in self.scopes) or "none"
            raise Forbidden(f"This needs the scope {scope}; {self.name or 'this caller'} has {has}.")

    def owns(self, submitter: str) -> bool:
        """Whether a job is this caller's to change: admins' are all, others' those that they have submitted."""
        return "admin" in self.scopes or bool(self.name and submitter == self.name)

    def require_own(self, submitter: str, what: str) -> None:
        """Let a caller through to a job of their own.

        Raises:
            Forbidden: it is somebody else's.
        """
        if not self.owns(submitter):
            whose = f"submitted by {submitter}" if submitter else "not submitted by way of this server"
            raise Forbidden(f"{what} was {whose}: to change it needs the scope admin.")

    def require_urgency(self, urgency: int | None) -> None:
        """Let an urgency through that overtakes nobody, or an admin's.

        Raises:
            Forbidden: it is higher than what others get.
        """
        if urgency is not None and urgency > HIGHEST_URGENCY and "admin" not in self.scopes:
            raise Forbidden(f"urgency: above {HIGHEST_URGENCY} needs the scope admin.")


def implied(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Return scopes with all that they imply: who may submit may read, who is admin may do everything."""
    return frozenset().union(*(_IMPLIED[scope] for scope in scopes))


class Credential(msgspec.Struct, frozen=True):
    """What a caller has shown: a bearer token, or a name and a password."""

    kind: Literal["bearer", "password"]
    secret: str
    name: str = ""

    def digest(self) -> bytes:
        """Return what a credential is remembered by: nothing here keeps the secret itself."""
        return hashlib.sha256(f"{self.kind}\0{self.name}\0{self.secret}".encode(errors="surrogatepass")).digest()

    def __repr__(self) -> str:
        return f"Credential({self.kind})"  # never a secret in a log or traceback


class Method(Protocol):
    """A way of telling who a caller is."""

    name: str
    kinds: frozenset[str]
    """Which kinds of credentials it reads."""
    cache_ttl: float
    """For how many seconds its answer may be kept; it ends with the credential all the same."""
    max_concurrent: int
    """About how many credentials it may be asked at the same time; 0: any number, since it asks no remote server."""

    async def identify(self, credential: Credential) -> Caller | None:
        """Return who has this credential; None when it is nobody's here.

        Raises:
            Unavailable: whoever knows cannot be asked just now.
        """
