"""Builds what stands before the API, from the options: the methods, the guard, the door."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sidecar.auth.authenticator import Authenticator
from sidecar.auth.caller import Method
from sidecar.auth.guard import Guard
from sidecar.auth.origins import Origins
from sidecar.auth.peer import SocketUsers
from sidecar.auth.sessions import Sessions
from sidecar.auth.tokens import TokenFile
from sidecar.config import addresses
from sidecar.config.access import AccessOptions, parse_scopes
from sidecar.config.options import SettingsError, api_server, parse_list
from sidecar.runtime.filewatch import Watch
from sidecar.runtime.rate_limiter import RateLimiter
from sidecar.runtime.tasks import Supervised, Supervisor

if TYPE_CHECKING:  # what is not asked for is not loaded: JWTs alone are ten megabytes
    from sidecar.auth.kubernetes import Kubernetes
    from sidecar.auth.login import Login
    from sidecar.auth.oidc import Oidc
    from sidecar.auth.secret import TokenSecret

log = structlog.get_logger("auth")

_GUESSES_A_SECOND = 1.0


class AuthSetup:
    """All of it, for one server.

    Args:
        options: checked.

    Raises:
        SettingsError: a file that they name cannot be used.
    """

    def __init__(self, options: AccessOptions) -> None:
        self.watch = Watch()
        self._watching: Supervised | None = None
        self._remote: list[Kubernetes | Oidc] = []
        self._secret: TokenSecret | None = None
        self._reading: Supervised | None = None
        self.login = _login(options)
        self.guard = Guard(
            Authenticator(
                self._methods(options),
                RateLimiter(_GUESSES_A_SECOND if options.guess_limit else 0, options.guess_limit),
            ),
            Sessions(60 * options.login_minutes),
            Origins(
                hosts=[*map(addresses.allowed_host, parse_list(options.allowed_hosts)), options.host.lower()],
                pages=map(addresses.origin, parse_list(options.allowed_origins)),
                proxies=parse_list(options.trusted_proxies),
                strict=not options.authenticates,
            ),
            SocketUsers(os.getuid(), parse_scopes("--socket-users", options.socket_users)),
            certificate_scope=options.tls_client_scope if options.tls_client_ca else None,
            rate=options.rate_limit,
            max_streams=options.max_streams,
        )
        for text in options.warnings():
            log.warning(text)

    def _methods(self, options: AccessOptions) -> list[Method]:
        """Make the methods, those first that ask nobody else."""
        methods: list[Method] = []
        if options.tokens:
            path = Path(options.tokens)
            self.watch.add(lambda: self._read_tokens(file), path)  # first: what is swapped meanwhile counts
            file = TokenFile(path)
            methods.append(file)
            if options.tokens_secret:
                self._secret = _secret(options, file, self._revalidate)
        if self.login:
            methods.append(self.login)
        if options.oidc_issuer:
            self._remote.append(_oidc(options))
        if options.kubernetes_auth:
            self._remote.append(_kubernetes(options))
        return [*methods, *self._remote]

    def _read_tokens(self, file: TokenFile) -> Callable[[], None]:
        take = file.read_again()

        def taken() -> None:
            take()
            self._revalidate()

        return taken

    def _revalidate(self) -> None:
        self.guard.revalidate()

    def start(self, tasks: Supervisor) -> None:
        """Begin to watch files, and to check again the callers of requests that go on."""
        self.watch.start(tasks)
        self._watching = tasks.start(self.guard.revalidate_forever, "guard", vital=True)
        if self._secret:
            self._reading = tasks.start(self._secret.run, "token secret", vital=True)

    async def close(self) -> None:
        """End what was begun."""
        await self.watch.close()
        for task in (self._watching, self._reading):
            if task:
                await task.close()
        if self._secret:
            await self._secret.close()
        for method in self._remote:
            await method.close()


def _secret(options: AccessOptions, file: TokenFile, changed: Callable[[], None]) -> TokenSecret:
    from sidecar.auth.secret import TokenSecret
    from sidecar.cluster.client import ApiServer

    return TokenSecret(
        ApiServer(api_server(options.kubernetes_api), Path(options.kubernetes_credentials)),
        namespace=options.kubernetes_namespace,
        name=options.tokens_secret,
        file=file,
        changed=changed,
    )


def _login(options: AccessOptions) -> Login | None:
    if not options.login_password:
        return None
    from sidecar.auth.login import Login

    return Login(options.login_user, options.login_password, options.login_secret, 60 * options.login_minutes)


def _oidc(options: AccessOptions) -> Oidc:
    from sidecar.auth.oidc import Oidc

    try:
        return Oidc(
            issuer=options.oidc_issuer,
            audience=options.oidc_audience,
            jwks=options.oidc_jwks,
            name_claim=options.oidc_name_claim,
            scope_claim=options.oidc_scope_claim,
            scopes=parse_scopes("--oidc-scopes", options.oidc_scopes),
            ca=Path(options.oidc_ca) if options.oidc_ca else None,
        )
    except ValueError as exc:
        raise SettingsError(f"--oidc-issuer: {exc}") from None


def _kubernetes(options: AccessOptions) -> Kubernetes:
    from sidecar.auth.kubernetes import Kubernetes

    return Kubernetes(
        api=api_server(options.kubernetes_api),
        credentials=Path(options.kubernetes_credentials),
        audience=options.kubernetes_audience,
        namespace=options.kubernetes_namespace,
        minicluster=options.minicluster,
    )
