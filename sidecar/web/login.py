"""The login of browsers: a form for a credential, and a session in a cookie."""

from __future__ import annotations

from importlib import resources
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

from sidecar.api.login import identify, issue_token, require_no_query
from sidecar.auth.caller import Caller, Credential
from sidecar.auth.guard import Guard
from sidecar.auth.logins import Logins
from sidecar.auth.sessions import cookie_name
from sidecar.domain.errors import Problem, TooManyRequests, Unauthenticated, Unavailable
from sidecar.http import html
from sidecar.http.operations import Answer, operation
from sidecar.http.routing import NoParameters
from sidecar.web.render import template

_HOME = "/"
_STYLE = resources.files("sidecar.web").joinpath("login.css").read_text()
_POLICY = html.style_only(_STYLE)
_PASSWORDS = frozenset({"login", "user"})  # methods whose tokens people do not have


class LoginForm(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of the login page: a token, or user and password."""

    token: Annotated[str, Meta(description="bearer token; takes precedence over user and password")] = ""
    user: Annotated[str, Meta(description="user name")] = ""
    password: Annotated[str, Meta(description="password of the user")] = ""
    next: Annotated[str, Meta(description="path of the page to show after the login")] = _HOME


class LoginPages:
    """Log browsers in and out.

    Args:
        guard: authenticates credentials, and has the sessions.
        logins: the logins with user and password.
        no_auth: whether the page warns that the server was started with --no-auth.
    """

    tag = "login"

    def __init__(self, guard: Guard, logins: Logins, *, no_auth: bool) -> None:
        self._guard = guard
        self._logins = logins
        self._no_auth = no_auth

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
            *(
                Answer("The page again, with the error", media=("text/html",), status=status)
                for status in (401, 429, 503)
            ),
        ),
        errors=(400, 413, 415),
    )
    async def begin(self, request: web.Request, body: LoginForm) -> web.Response:
        """Start a browser's session with a token, or with user and password."""
        require_no_query(request)
        credential = (
            Credential("bearer", body.token) if body.token else Credential("password", body.password, body.user)
        )
        destination = body.next if _is_local(body.next) else _HOME
        try:
            caller = await identify(self._guard, request, credential)
            if caller is None:
                raise Unauthenticated("Unknown or expired token or password.")
        except (Unauthenticated, TooManyRequests, Unavailable) as exc:
            return self.page(exc, destination=destination)
        response = web.Response(status=303, headers={"Location": f".{destination}"})
        response.set_cookie(
            self._cookie(request),
            self._begin_session(credential, caller),
            max_age=int(self._guard.sessions.lifetime),
            path="/",
            secure=True,
            httponly=True,
            samesite="Strict",
        )
        return response

    def _begin_session(self, login: Credential, caller: Caller) -> str:
        """Return the value of the cookie; after a login with a password, the session stands for an access token."""
        token = issue_token(self._guard, self._logins, caller) if login.kind == "password" else None
        return self._guard.sessions.begin(login, token)

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
        """Return the login page.

        Args:
            problem: gives the response its status and headers.
            destination: path of the page to show after the login.
            first: whether this is the first attempt, so that the text of the problem is not shown.
            root: relative path from the page to the server's root.
        """
        methods = self._guard.authenticator.methods
        forms = ["password"] if any("password" in method.kinds for method in methods) else []
        if not forms or any(method.name not in _PASSWORDS for method in methods):
            forms.append("token")
        alert = problem.detail if problem and not first else ""
        text = template("login.html").render(
            root=root, style=_STYLE, no_auth=self._no_auth, alert=alert, forms=forms, destination=destination
        )
        status, headers = (problem.status, problem.headers) if problem else (200, {})
        return html.response(text, policy=_POLICY, status=status, headers=headers)


def _is_local(path: str) -> bool:
    """Whether a path stays on this server: browsers read two slashes of any kind as the start of a host name."""
    return path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
