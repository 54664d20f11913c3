"""Create the authentication methods and the guard from the options."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.caller import Method
from sidecar.auth.caller_file import CallerFile
from sidecar.auth.guard import CallerLimits, Guard
from sidecar.auth.logins import Logins
from sidecar.auth.origins import Origins
from sidecar.auth.peer import PeerCallers, SocketUsers
from sidecar.auth.sessions import Sessions
from sidecar.auth.tokens import TokenFile
from sidecar.config import addresses
from sidecar.config.access import AccessOptions, OidcOptions, parse_scopes
from sidecar.config.environment import api_server
from sidecar.config.kubernetes import KubernetesOptions
from sidecar.config.settings import Settings
from sidecar.config.values import SettingsError, parse_list
from sidecar.runtime.filewatch import FileWatcher
from sidecar.runtime.rate_limiter import RateLimiter
from sidecar.runtime.tasks import Supervised, Supervisor

if TYPE_CHECKING:  # unused methods are not imported: the JWT library alone takes ten megabytes
    from sidecar.auth.kubernetes import Kubernetes
    from sidecar.auth.oidc import Oidc
    from sidecar.auth.secret import TokenSecret
    from sidecar.auth.users import UserFile, UserPasswords
    from sidecar.cluster.client import ApiServer

log = structlog.get_logger("auth")

_GUESSES_A_SECOND = 1.0

F = TypeVar("F", bound=CallerFile[Any])


class AuthSetup:
    """The authentication and authorization of one server.

    Args:
        settings: of the server, validated.

    Raises:
        SettingsError: a file or URL of the settings cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.watch = FileWatcher()
        self._watching: Supervised | None = None
        self._remote: list[Kubernetes | Oidc] = []
        self._secret: TokenSecret | None = None
        self._reading: Supervised | None = None
        self._users = self._read_users(settings.access)
        self._passwords: UserPasswords | None = None
        self.logins = _logins(settings.access, self._users)
        self.guard = Guard(
            Authenticator(
                self._methods(settings),
                RateLimiter(_GUESSES_A_SECOND if settings.limits.guess_limit else 0, settings.limits.guess_limit),
            ),
            Sessions(60 * settings.access.login_minutes),
            Origins(
                hosts=[
                    *map(addresses.allowed_host, parse_list(settings.listen.allowed_hosts)),
                    settings.listen.host.lower(),
                ],
                pages=map(addresses.origin, parse_list(settings.listen.allowed_origins)),
                proxies=parse_list(settings.listen.trusted_proxies),
                strict=not settings.authenticates,
            ),
            PeerCallers(
                SocketUsers(os.getuid(), parse_scopes("--socket-users", settings.access.socket_users)),
                certificate_scope=settings.tls.tls_client_scope if settings.tls.tls_client_ca else None,
            ),
            CallerLimits(rate=settings.limits.rate_limit, max_streams=settings.limits.max_streams),
        )
        for text in settings.warnings():
            log.warning(text)

    def _methods(self, settings: Settings) -> list[Method]:
        """Create the methods; those without a remote server come first."""
        methods: list[Method] = []
        if settings.access.tokens:
            file = self._read(settings.access.tokens, TokenFile)
            methods.append(file)
            if settings.kubernetes.tokens_secret:
                self._secret = _secret(settings.kubernetes, file, self._revalidate)
        if self.logins.login:
            methods.append(self.logins.login)
        if self._users and self.logins.users:
            from sidecar.auth.users import UserPasswords

            self._passwords = UserPasswords(self._users)
            methods += [self._passwords, self.logins.users]
        if settings.oidc.oidc_issuer:
            self._remote.append(_oidc(settings.oidc))
        if settings.kubernetes.kubernetes_auth:
            self._remote.append(_kubernetes(settings.kubernetes))
        return [*methods, *self._remote]

    def _read_users(self, options: AccessOptions) -> UserFile | None:
        if not options.users:
            return None
        from sidecar.auth.users import UserFile

        return self._read(options.users, UserFile)

    def _read(self, name: str, kind: Callable[[Path], F]) -> F:
        """Read a file of callers now, and again after each change."""
        path = Path(name)
        self.watch.add(lambda: self._read_again(file), path)  # before the first read: misses no change
        file = kind(path)
        return file

    def _read_again(self, file: CallerFile[Any]) -> Callable[[], None]:
        take = file.read_again()

        def taken() -> None:
            take()
            self._revalidate()

        return taken

    def _revalidate(self) -> None:
        self.guard.revalidate()

    def start(self, tasks: Supervisor) -> None:
        """Start to watch files and to revalidate the callers of requests in progress."""
        self.watch.start(tasks)
        self._watching = tasks.start(self.guard.revalidate_forever, "guard", vital=True)
        if self._secret:
            self._reading = tasks.start(self._secret.run, "token secret", vital=True)

    async def close(self) -> None:
        """Stop all tasks and close the connections of the methods."""
        await self.watch.close()
        for task in (self._watching, self._reading):
            if task:
                await task.close()
        if self._secret:
            await self._secret.close()
        if self._passwords:
            self._passwords.close()
        for method in self._remote:
            await method.close()


def _api_server(options: KubernetesOptions) -> ApiServer:
    from sidecar.cluster.client import ApiServer

    return ApiServer(api_server(options.kubernetes_api), Path(options.kubernetes_credentials))


def _secret(options: KubernetesOptions, file: TokenFile, changed: Callable[[], None]) -> TokenSecret:
    from sidecar.auth.secret import TokenSecret

    return TokenSecret(
        _api_server(options),
        namespace=options.kubernetes_namespace,
        name=options.tokens_secret,
        file=file,
        changed=changed,
    )


def _logins(options: AccessOptions, users: UserFile | None) -> Logins:
    if not options.login_password and users is None:
        return Logins()
    from sidecar.auth.access_tokens import AccessTokens, SharedSecret
    from sidecar.auth.login import Login
    from sidecar.auth.user_tokens import UserTokens

    secret, tokens = options.login_secret, AccessTokens(60 * options.login_minutes)
    return Logins(
        login=Login(options.login_user, options.login_password, secret, tokens) if options.login_password else None,
        users=UserTokens(users, secret, tokens) if users else None,
        shared=SharedSecret(secret) if secret else None,
        lifetime=tokens.lifetime,
    )


def _oidc(options: OidcOptions) -> Oidc:
    from sidecar.auth.jwks import IssuerSettings
    from sidecar.auth.oidc import ClaimMapping, Oidc

    issuer = IssuerSettings(
        url=options.oidc_issuer, jwks=options.oidc_jwks, ca=Path(options.oidc_ca) if options.oidc_ca else None
    )
    mapping = ClaimMapping(
        name_claim=options.oidc_name_claim,
        scope_claim=options.oidc_scope_claim,
        scopes=parse_scopes("--oidc-scopes", options.oidc_scopes),
        default=options.default_scope,
        admins=frozenset(parse_list(options.oidc_admins)),
    )
    try:
        return Oidc(issuer, options.oidc_audience, mapping)
    except ValueError as exc:
        raise SettingsError(f"--oidc-issuer: {exc}") from None


def _kubernetes(options: KubernetesOptions) -> Kubernetes:
    from sidecar.auth.kubernetes import Kubernetes, RbacTarget

    target = RbacTarget(namespace=options.kubernetes_namespace, minicluster=options.minicluster)
    return Kubernetes(_api_server(options), audience=options.kubernetes_audience, target=target)
