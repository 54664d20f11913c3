"""Logging in: the predecessor's two ways to an access token, and a browser's to a session."""

from __future__ import annotations

import html as markup
from collections.abc import Callable
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.auth.authorization import read_authorization
from sidecar.auth.caller import SCOPES, Caller, Credential
from sidecar.auth.guard import Guard, caller_of
from sidecar.auth.sessions import cookie_name
from sidecar.config.access import Scope
from sidecar.domain.errors import Denied, InvalidRequest, Problem, TooManyRequests, Unauthenticated, Unavailable
from sidecar.http import html
from sidecar.http.audit import audit_details
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters

if TYPE_CHECKING:
    from sidecar.auth.login import Login

_DENIED = "Denied"
_HOME = "/"
_STYLE = resources.files("sidecar.web").joinpath("login.css").read_text()
_PAGE = Template(resources.files("sidecar.web").joinpath("login.html").read_text())
_POLICY = html.style_only(_STYLE)

_BY_TOKEN = """<form method="post" action="${root}login">
      <label for="token">Token</label>
      <input id="token" name="token" type="password" autocomplete="off" required$focus>
      <input name="next" type="hidden" value="$next">
      <button>Log in</button>
    </form>"""  # noqa: S105 - a form, and no secret
_BY_PASSWORD = """<form method="post" action="${root}login">
      <label for="user">User</label>
      <input id="user" name="user" autocomplete="username" required$focus>
      <label for="password">Password</label>
      <input id="password" name="password" type="password" autocomplete="current-password" required>
      <input name="next" type="hidden" value="$next">
      <button>Log in</button>
    </form>"""  # noqa: S105


class AccessToken(msgspec.Struct):
    """A token for the header Authorization, until it expires."""

    access_token: str
    token_type: str
    expires_in: Annotated[int, Meta(description="seconds")]


class PasswordForm(msgspec.Struct, forbid_unknown_fields=True):
    """What an OAuth 2 password form holds; only name and password count."""

    username: str
    password: str
    grant_type: str = "password"
    scope: str = ""
    client_id: str = ""
    client_secret: str = ""


class LoginForm(msgspec.Struct, forbid_unknown_fields=True):
    """What the login page sends: a token, or name and password."""

    token: str = ""
    user: str = ""
    password: str = ""
    next: Annotated[str, Meta(description="path to go on with")] = _HOME


class Whoami(msgspec.Struct, omit_defaults=False):
    """Who the caller is here."""

    name: Annotated[str, Meta(description="empty where nobody is asked")]
    scopes: list[Scope]
    method: str
    expires: Annotated[float | None, Meta(description="when the credential ends, in Unix seconds")]


class LoginResource:
    """Logs callers in."""

    tag = "login"

    def __init__(self, guard: Guard, login: Login | None, *, no_auth: bool) -> None:
        self._guard = guard
        self._notice = html.NO_AUTH if no_auth else ""
        self._login = login

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
        """Get an access token for a signed user and password, as flux-restful-client asks for it.

        A login that fails is answered with 400, as it was: that client would ask for ever after a 401.
        """
        try:
            shown = read_authorization(request)
        except Unauthenticated:
            shown = None
        credential = self._login.password_of(shown.secret) if self._login and shown else None
        if credential is None and not (self._login and self._login.shares_a_secret):
            raise InvalidRequest("No secret is shared here (FLUX_SECRET_KEY and FLUX_TOKEN).", message=_DENIED)
        # A JWT that was not made with the secret is a guess like any other.
        await self._caller(request, credential or Credential("password", ""), _denied)
        return self._access_token()

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
        _in_the_body(request)
        if self._login is None:
            raise InvalidRequest("There is no password here (FLUX_TOKEN).", message=_DENIED)
        await self._caller(request, Credential("password", body.password, body.username), _denied)
        return self._access_token()

    def _access_token(self) -> AccessToken:
        assert self._login is not None  # noqa: S101 - or nobody would be known by a password
        return AccessToken(self._login.access_token(), "Bearer", int(self._login.lifetime))

    async def _caller(self, request: web.Request, credential: Credential, refusal: Callable[[], Problem]) -> Caller:
        caller = await self._guard.authenticator.authenticate(credential, self._guard.origins.address(request))
        if caller is None:
            raise refusal()
        audit_details(request, caller=caller.name)
        return caller

    @operation("GET", "/v1/whoami", answers=(Answer("The caller", Whoami),), errors=(400,))
    async def whoami(self, request: web.Request) -> Whoami:
        """Read who the server takes you for, and what you may do."""
        caller = caller_of(request)
        scopes = [scope for scope in SCOPES if scope in caller.scopes]
        return Whoami(caller.name, scopes, caller.method, caller.expires)

    # ------------------------------------------------------------------------------------------------ browsers

    @operation("GET", "/login", scope=None, answers=(Answer("The login page", media=("text/html",)),), errors=(400,))
    async def show(self, request: web.Request) -> web.Response:
        """Show the login page."""
        return self.page()

    @operation(
        "POST",
        "/login",
        scope=None,
        body=LoginForm,
        answers=(
            Answer("Logged in; the session is a cookie", media=(), status=303),
            *(Answer("The page again, and why", media=("text/html",), status=status) for status in (401, 429, 503)),
        ),
        errors=(400, 413, 415),
    )
    async def begin(self, request: web.Request, body: LoginForm) -> web.Response:
        """Begin a browser's session with a token, or with user and password."""
        _in_the_body(request)
        credential = (
            Credential("bearer", body.token) if body.token else Credential("password", body.password, body.user)
        )
        destination = body.next if _is_ours(body.next) else _HOME
        try:
            await self._caller(request, credential, _nobody)
        except (Unauthenticated, TooManyRequests, Unavailable) as exc:
            return self.page(exc, destination=destination)
        response = web.Response(status=303, headers={"Location": f".{destination}"})
        response.set_cookie(
            self._cookie(request),
            self._guard.sessions.begin(credential),
            max_age=int(self._guard.sessions.lifetime),
            path="/",
            secure=True,
            httponly=True,
            samesite="Strict",
        )
        return response

    @operation(
        "POST",
        "/logout",
        scope=None,
        body=NoParameters,
        answers=(Answer("Logged out", media=(), status=303),),
        errors=(400, 413, 415),
    )
    async def end(self, request: web.Request, body: NoParameters) -> web.Response:
        """End a browser's session."""
        name = self._cookie(request)
        if cookie := request.cookies.get(name):
            self._guard.sessions.end(cookie)
        response = web.Response(status=303, headers={"Location": "./login"})
        response.del_cookie(name, path="/", secure=True, httponly=True, samesite="Strict")
        return response

    def _cookie(self, request: web.Request) -> str:
        return cookie_name(request.headers.get("Host", ""))

    def page(
        self, problem: Problem | None = None, *, destination: str = _HOME, first: bool = False, root: str = "./"
    ) -> web.Response:
        """Return the login page; with a problem its status, headers and (unless nothing was tried yet) text too."""
        kinds = {kind for method in self._guard.authenticator.methods for kind in method.kinds}
        tokens = [method.name for method in self._guard.authenticator.methods if method.name != "login"]
        forms = [_BY_PASSWORD] if "password" in kinds else []
        if tokens or not forms:
            forms.append(_BY_TOKEN)
        going_on = markup.escape(destination, quote=True)
        filled = [
            Template(form).substitute(root=root, next=going_on, focus=" autofocus" if form is forms[0] else "")
            for form in forms
        ]
        alert = f'<p role="alert">{markup.escape(problem.detail)}</p>' if problem and not first else ""
        text = _PAGE.substitute(style=_STYLE, notice=self._notice, problem=alert, forms="\n    ".join(filled))
        status, headers = (problem.status, problem.headers) if problem else (200, {})
        return html.response(text, policy=_POLICY, status=status, headers=headers)


def _in_the_body(request: web.Request) -> None:
    """Refuse what proxies and browsers would write down."""
    if request.rel_url.raw_query_string:
        raise InvalidRequest("A password or token belongs in the body: addresses are logged.", message=_DENIED)


def _denied() -> Problem:
    return Denied("Incorrect user or token.", message=_DENIED)


def _nobody() -> Problem:
    return Unauthenticated("Unknown or expired token or password.")


def _is_ours(path: str) -> bool:
    """Whether a path stays on this server: browsers read two slashes of any kind as the name of another."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
