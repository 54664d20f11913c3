"""``/v1/auth``: how callers log in, as clients of flux-restful 1.1 read it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, UnsetType

from sidecar.config.settings import Settings
from sidecar.http.operations import Answer, operation

Backend = Literal["none", "database", "shared-secret", "oidc", "token", "kubernetes", "certificate"]

#: By the name of the method of authentication; the first one that is configured counts.
_BACKENDS: dict[str, Backend] = {
    "user": "database",
    "login": "shared-secret",
    "oidc": "oidc",
    "token": "token",
    "kubernetes": "kubernetes",
    "certificate": "certificate",
}


class OidcIssuer(msgspec.Struct):
    """The OpenID Connect issuer whose tokens are accepted."""

    issuer: Annotated[str, Meta(description="URL of the issuer")]
    audience: Annotated[str, Meta(description="audience that a token must have")]


class AuthMethods(msgspec.Struct):
    """How callers log in."""

    backend: Annotated[
        Backend,
        Meta(
            description="the first of these that is configured: database (users with passwords, --users), "
            "shared-secret (FLUX_USER and FLUX_TOKEN), oidc, token (--tokens), kubernetes, certificate; none: no "
            "credential is needed"
        ),
    ]
    password_login: Annotated[
        bool,
        Meta(description="whether a name and password are accepted: HTTP Basic, POST /v1/login/access-token, /login"),
    ]
    shared_secret_handshake: Annotated[
        bool, Meta(description="whether POST /v1/token is available, with which flux-restful-client logs in")
    ]
    oidc: Annotated[OidcIssuer | UnsetType, Meta(description="absent if no issuer is configured")] = UNSET


class AuthResource:
    """Describe how callers log in.

    Args:
        methods: the answer, which does not change while the server runs.
    """

    tag = "auth"

    def __init__(self, methods: AuthMethods) -> None:
        self._methods = methods

    @operation("GET", "/v1/auth", scope=None, answers=(Answer("How callers log in", AuthMethods),), errors=(400,))
    async def methods(self, request: web.Request) -> AuthMethods:
        """Read how to log in, without a credential.

        As in flux-restful 1.1, this names one method, while several can be configured: tokens of a file, Kubernetes
        tokens, OpenID Connect, users with passwords, client certificates, and the Unix socket. GET /v1/whoami shows
        which one was used.
        """
        return self._methods


def describe_auth(settings: Settings) -> AuthMethods:
    """Return the answer of a server with these settings."""
    methods, oidc = settings.methods, settings.oidc
    by_password = "user" in methods or "login" in methods
    return AuthMethods(
        backend=next((backend for method, backend in _BACKENDS.items() if method in methods), "none"),
        password_login=by_password,
        shared_secret_handshake=by_password and bool(settings.access.login_secret),
        oidc=OidcIssuer(oidc.oidc_issuer, oidc.oidc_audience) if "oidc" in methods else UNSET,
    )
