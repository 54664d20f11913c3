"""Options of the groups Access, OIDC and TLS: authentication and scopes of callers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from sidecar.config import predecessor
from sidecar.config.options import group, option, require_positive
from sidecar.config.values import SettingsError, not_yes_or_no, parse_list

Scope = Literal["read", "submit", "admin"]


_YES, _NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})


def _requires(_: Any, tokens: Sequence[Any]) -> bool:
    """Read whether authentication is required, as flux-restful 1.1 does. For flux-restful-api 0.2 any value was yes."""
    text = str(tokens[0].value).strip().lower()
    if text not in _YES | _NO:
        raise ValueError(not_yes_or_no(text))
    return text in _YES


@group("Access")
@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Tokens, users, the login, and access without authentication."""

    tokens: Annotated[
        str,
        option(
            "tokens",
            "File of bearer tokens, one name:scopes:sha256 per line; `flux-sidecar token new` creates a token. The "
            "file is reloaded when it changes.",
        ),
    ] = ""
    users: Annotated[
        str,
        option(
            "users",
            "File of users with passwords, one name:scopes:hash per line; `flux-sidecar user add` adds a user. The "
            "file is reloaded when it changes.",
        ),
    ] = ""
    no_auth: Annotated[
        bool,
        option(
            "no_auth",
            "Accept every request without authentication. Required to listen on an address other than loopback "
            "without an authentication method.",
        ),
    ] = False
    require_auth: Annotated[
        bool,
        option(
            "require_auth",
            "Refuse to start without an authentication method, even on loopback.",
            "FLUX_REQUIRE_AUTH",
            converter=_requires,
        ),
    ] = False
    login_user: Annotated[
        str, option("login_user", "Name of the user that logs in with --login-password.", "FLUX_USER")
    ] = "fluxuser"
    login_password: Annotated[
        str,
        option(
            "login_password",
            "Password of --login-user. Prefer the variable: other users of the machine can read command lines.",
            "FLUX_TOKEN",
        ),
    ] = ""
    login_secret: Annotated[
        str,
        option(
            "login_secret",
            "Shared secret with which flux-restful-client signs its login. Prefer the variable.",
            "FLUX_SECRET_KEY",
        ),
    ] = ""
    login_minutes: Annotated[
        float,
        option(
            "login_minutes",
            "Lifetime of an access token and of a browser session.",
            "FLUX_ACCESS_TOKEN_EXPIRES_MINUTES",
            unit="minutes",
        ),
    ] = 600.0
    socket_users: Annotated[
        str,
        option(
            "socket_users",
            "Other users that may use --socket: user names or uids with their scopes, as in alice=submit,1001=read; "
            "* stands for every user.",
        ),
    ] = ""
    metrics_open: Annotated[bool, option("metrics_open", "Serve metrics without authentication.")] = False

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        require_positive(self, "login_minutes")
        parse_scopes("--socket-users", self.socket_users)


@group("OIDC")
@dataclass(frozen=True, kw_only=True)
class OidcOptions:
    """Tokens of an OpenID Connect provider."""

    oidc_issuer: Annotated[
        str,
        option(
            "oidc_issuer",
            "URL of the OpenID Connect issuer whose JWTs are accepted as bearer tokens.",
            "FLUX_OIDC_ISSUER",
        ),
    ] = ""
    oidc_audience: Annotated[str, option("oidc_audience", "Audience that a JWT must have.", "FLUX_OIDC_AUDIENCE")] = (
        "flux-sidecar"
    )
    oidc_scopes: Annotated[
        str,
        option(
            "oidc_scopes",
            "Scopes for the values of --oidc-scope-claim, as in flux-users=submit,flux-ops=admin.",
        ),
    ] = "flux:read=read,flux:submit=submit,flux:admin=admin"
    oidc_scope_claim: Annotated[
        str,
        option("oidc_scope_claim", "Claim that contains scopes or groups; dots separate the names of nested objects."),
    ] = "scope"
    oidc_default_scope: Annotated[
        Literal["", "read", "submit", "admin"],
        option(
            "oidc_default_scope",
            "Scope of a caller whose JWT has none of --oidc-scopes. By default none; with FLUX_AUTH_BACKEND=oidc "
            "submit, as in flux-restful.",
        ),
    ] = ""
    oidc_admins: Annotated[
        str,
        option(
            "oidc_admins",
            "Names of callers that have the scope admin whatever their JWT has, separated by commas.",
            "FLUX_ADMIN_USERS",
        ),
    ] = ""
    oidc_name_claim: Annotated[
        str, option("oidc_name_claim", "Claim that contains the caller's name.", "FLUX_OIDC_USERNAME_CLAIM")
    ] = "sub"
    oidc_jwks: Annotated[
        str,
        option(
            "oidc_jwks",
            "URL or file of the issuer's keys. By default from the issuer's discovery document.",
            "FLUX_OIDC_JWKS_URL",
        ),
    ] = ""
    oidc_ca: Annotated[
        str,
        option(
            "oidc_ca",
            "CA certificate (PEM file) to verify the issuer's certificate. By default the system's CA certificates.",
        ),
    ] = ""

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        parse_scopes("--oidc-scopes", self.oidc_scopes)

    @property
    def default_scope(self) -> Scope | None:
        """The scope of a caller whose JWT grants none."""
        return self.oidc_default_scope or ("submit" if predecessor.backend() == "oidc" else None)


@group("TLS")
@dataclass(frozen=True, kw_only=True)
class TlsOptions:
    """The server's certificate, and client certificates."""

    tls_cert: Annotated[
        str, option("tls_cert", "Certificate chain of the server (PEM file). It is reloaded when it changes.")
    ] = ""
    tls_key: Annotated[str, option("tls_key", "Private key of --tls-cert (PEM file).")] = ""
    tls_client_ca: Annotated[
        str,
        option(
            "tls_client_ca",
            "CA certificate (PEM file) of client certificates. A client certificate authenticates the caller named in "
            "its common name.",
        ),
    ] = ""
    tls_client_scope: Annotated[
        Scope, option("tls_client_scope", "Scope of callers that are authenticated by a client certificate.")
    ] = "submit"

    def check(self) -> None:
        """Check the options of this group.

        Raises:
            SettingsError: they are not valid; the text says what to change.
        """
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("--tls-cert and --tls-key belong together: give both.")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("--tls-client-ca: client certificates need TLS; give --tls-cert and --tls-key too.")


def parse_scopes(name: str, text: str) -> dict[str, Scope]:
    """Return scopes by name, from ``alice=submit,bob=read``.

    Args:
        name: flag of the option.
        text: as typed.

    Raises:
        SettingsError: a part has another form, or an unknown scope.
    """
    scopes: dict[str, Scope] = {}
    for part in parse_list(text):
        subject, equals, scope = part.rpartition("=")
        if not equals or not subject or scope not in ("read", "submit", "admin"):
            raise SettingsError(f"{name}: {part!r} is not of the form NAME=SCOPE; scopes are read, submit, admin.")
        scopes[subject] = cast(Scope, scope)
    return scopes
