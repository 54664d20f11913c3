"""``/v1/token``, ``/v1/login/access-token`` and ``/v1/whoami``: the predecessor's access tokens, and the caller."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.auth.authorization import read_authorization
from sidecar.auth.caller import Caller, Credential, listed
from sidecar.auth.guard import Guard, caller_of
from sidecar.auth.logins import Logins
from sidecar.config.access import Scope
from sidecar.domain.errors import Denied, InvalidRequest, Unauthenticated
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters

_DENIED = "Denied"


class AccessToken(msgspec.Struct):
    """A token for the header Authorization."""

    access_token: Annotated[str, Meta(description="the token")]
    token_type: Annotated[str, Meta(description="always Bearer")]
    expires_in: Annotated[int, Meta(description="lifetime of the token, in seconds")]


class PasswordForm(msgspec.Struct, forbid_unknown_fields=True):
    """An OAuth 2 password form (RFC 6749, section 4.3); only username and password are used."""

    username: Annotated[str, Meta(description="user name (a user of --users, or FLUX_USER)")]
    password: Annotated[str, Meta(description="password of the user")]
    grant_type: Annotated[str, Meta(description="ignored")] = "password"
    scope: Annotated[str, Meta(description="ignored")] = ""
    client_id: Annotated[str, Meta(description="ignored")] = ""
    client_secret: Annotated[str, Meta(description="ignored")] = ""


class Whoami(msgspec.Struct, omit_defaults=False):
    """The caller of this request."""

    name: Annotated[str, Meta(description="name of the caller; empty without authentication")]
    scopes: Annotated[list[Scope], Meta(description="scopes of the caller: read, submit, admin")]
    method: Annotated[
        str,
        Meta(
            description="how the caller was authenticated: token, user, login, kubernetes, oidc, socket, certificate, "
            "or none"
        ),
    ]
    expires: Annotated[float | None, Meta(description="when the credential expires, in Unix seconds; null: never")]


class LoginResource:
    """Issue access tokens, and describe the caller.

    Args:
        guard: authenticates credentials.
        logins: the logins with user and password.
    """

    tag = "login"

    def __init__(self, guard: Guard, logins: Logins) -> None:
        self._guard = guard
        self._logins = logins

    @operation(
        "POST",
        "/v1/token",
        scope=None,
        body=NoParameters,
        headers={"Authorization": "Bearer, and a JWT (HS256, the shared secret) of user, pass and scope=token"},
        answers=(Answer("An access token", AccessToken),),
        errors=(400, 413, 415, 429),
    )
    async def token(self, request: web.Request, body: NoParameters) -> AccessToken:
        """Get an access token for a signed user and password, as flux-restful-client requests it.

        A failed login is 400, as in flux-restful-api: after a 401 that client would retry forever.
        """
        try:
            shown = read_authorization(request)
        except Unauthenticated:
            shown = None
        if not self._logins.shares_a_secret:
            text = "No secret is shared here: set FLUX_SECRET_KEY, and FLUX_TOKEN or --users."
            raise InvalidRequest(text, message=_DENIED)
        credential = self._logins.password_of(shown.secret) if shown else None
        # A JWT with a wrong signature counts as a failed login.
        return await self._access_token(request, credential or Credential("password", ""))

    @operation(
        "POST",
        "/v1/login/access-token",
        scope=None,
        body=PasswordForm,
        answers=(Answer("An access token", AccessToken),),
        errors=(400, 413, 415, 429),
    )
    async def access_token(self, request: web.Request, body: PasswordForm) -> AccessToken:
        """Get an access token for a user and password, as an OAuth 2 password form."""
        require_no_query(request)
        if not self._logins:
            raise InvalidRequest("There is no password login here: set --users or FLUX_TOKEN.", message=_DENIED)
        return await self._access_token(request, Credential("password", body.password, body.username))

    async def _access_token(self, request: web.Request, credential: Credential) -> AccessToken:
        caller = await identify(self._guard, request, credential)
        token = issue_token(self._guard, self._logins, caller) if caller else None
        if token is None:
            raise Denied("Incorrect user or token.", message=_DENIED)
        return AccessToken(token.secret, "Bearer", int(self._logins.lifetime))

    @operation("GET", "/v1/whoami", answers=(Answer("The caller", Whoami),), errors=(400,))
    async def whoami(self, request: web.Request) -> Whoami:
        """Read the name and the scopes of the caller."""
        caller = caller_of(request)
        return Whoami(caller.name, listed(caller.scopes), caller.method, caller.expires)


async def identify(guard: Guard, request: web.Request, credential: Credential) -> Caller | None:
    """Return the caller with a credential that a login sends, and record it in the audit; None when it is unknown.

    Raises:
        TooManyRequests: too many logins from this address have failed.
        Unavailable: the authentication backend does not respond.
    """
    caller = await guard.authenticator.authenticate(credential, guard.origins.address(request))
    if caller is not None:
        audit_details(request, caller=caller.name)
    return caller


def issue_token(guard: Guard, logins: Logins, caller: Caller) -> Credential | None:
    """Return an access token for a caller that has just logged in with a password; None for any other."""
    text = logins.access_token(caller)
    if text is None:
        return None
    token = Credential("bearer", text)
    guard.authenticator.trust_issued(token)
    return token


def require_no_query(request: web.Request) -> None:
    """Refuse a login with a query: proxies and browsers store addresses.

    Raises:
        InvalidRequest: the request has a query.
    """
    if request.rel_url.raw_query_string:
        raise InvalidRequest("Send the password or token in the body: addresses are logged.", message=_DENIED)
