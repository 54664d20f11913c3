"""All settings of a server, in groups; the single source of flags, variables, help and docs/settings.md."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field

from cyclopts import Parameter

from sidecar.config import predecessor
from sidecar.config.access import AccessOptions, OidcOptions, TlsOptions
from sidecar.config.addresses import is_loopback
from sidecar.config.early import operator_uri
from sidecar.config.embedded import EmbeddedOptions
from sidecar.config.jobs import JobOptions
from sidecar.config.kubernetes import KubernetesOptions
from sidecar.config.limits import LimitOptions
from sidecar.config.listen import ListenOptions
from sidecar.config.telemetry import TelemetryOptions
from sidecar.config.values import SettingsError

_WEAK_SECRET = 14  # bytes; 112 bits, the minimum of NIST SP 800-131A for an HMAC key

_NO_INSTANCE = """There is no Flux instance to serve. Start one around the server:

    flux start flux-sidecar serve

or name a running one with --uri (or FLUX_URI), or run jobs on this machine without Flux:

    flux-sidecar serve --embedded"""
_NO_METHOD = """No method of authentication is set. Give one or more of:

    --tokens FILE             bearer tokens (flux-sidecar token new NAME --file FILE)
    --kubernetes-auth         tokens and RBAC of the cluster
    --oidc-issuer URL         JWTs of an identity provider
    --users FILE              users with passwords (flux-sidecar user add NAME --file FILE)
    FLUX_TOKEN=PASSWORD       one user with a password; with FLUX_SECRET_KEY for flux-restful-client
    --tls-client-ca FILE      client certificates"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of a server."""

    listen: ListenOptions = field(default_factory=ListenOptions)
    jobs: JobOptions = field(default_factory=JobOptions)
    access: AccessOptions = field(default_factory=AccessOptions)
    oidc: OidcOptions = field(default_factory=OidcOptions)
    tls: TlsOptions = field(default_factory=TlsOptions)
    kubernetes: KubernetesOptions = field(default_factory=KubernetesOptions)
    limits: LimitOptions = field(default_factory=LimitOptions)
    telemetry: TelemetryOptions = field(default_factory=TelemetryOptions)
    engine: EmbeddedOptions = field(default_factory=EmbeddedOptions)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of authentication on the port."""
        configured = {
            "token": self.access.tokens,
            "user": self.access.users,
            "login": self.access.login_password,
            "oidc": self.oidc.oidc_issuer,
            "kubernetes": self.kubernetes.kubernetes_auth,
            "certificate": self.tls.tls_client_ca,
        }
        return tuple(name for name, value in configured.items() if value)

    @property
    def authenticates(self) -> bool:
        """Whether requests on the port need a credential."""
        return bool(self.methods)

    def located(self) -> Settings:
        """Return the settings with the URI of the Flux Operator's broker, if no instance is named and there is one."""
        if self.jobs.uri or self.engine.embedded:
            return self
        return dataclasses.replace(self, jobs=dataclasses.replace(self.jobs, uri=operator_uri()))

    def check(self) -> None:
        """Check that the server can run with these settings, and safely.

        Raises:
            SettingsError: it cannot; the text says what to change.
        """
        self._check_instance()
        self.listen.check()
        self._check_methods()
        predecessor.check(self.methods)
        self.access.check()
        self.oidc.check()
        self.tls.check()
        self.limits.check()
        self.jobs.check()
        self.telemetry.check(self.listen.port)
        self.engine.check()

    def _check_instance(self) -> None:
        uri, embedded = self.jobs.uri, self.engine.embedded
        if embedded and self.jobs.uri_is_explicit:
            raise SettingsError("--embedded and --uri exclude each other: give one of them.")
        if not embedded and not uri:
            raise SettingsError(_NO_INSTANCE)
        self.kubernetes.check(uri, embedded=embedded)
        if not embedded:
            self.jobs.check_uri()

    def _check_methods(self) -> None:
        listen, access = self.listen, self.access
        if access.no_auth and self.methods:
            raise SettingsError(
                f"--no-auth and a method of authentication ({', '.join(self.methods)}) exclude each other: "
                "give one of them."
            )
        if access.require_auth and not self.methods:
            raise SettingsError(f"--require-auth (FLUX_REQUIRE_AUTH): {_NO_METHOD}")
        if listen.tcp and not access.no_auth and not self.methods and not is_loopback(listen.host):
            raise SettingsError(
                f"Listening on {listen.host}{listen.host_source} would let any client that reaches port {listen.port} "
                f"run programs here. {_NO_METHOD}\n\nOr listen on 127.0.0.1 (kubectl port-forward reaches it), or add "
                "--no-auth if that is meant."
            )
        if self.kubernetes.tokens_secret and not access.tokens:
            raise SettingsError("--tokens-secret: give --tokens too, the file that the Secret is mounted at.")
        if access.socket_users and not listen.socket:
            raise SettingsError("--socket-users: give --socket too.")

    @property
    def notes(self) -> list[str]:
        """What to log about options that variables of other programs have set."""
        return [*self.listen.notes, *predecessor.notes(self.methods)]

    def warnings(self) -> list[str]:
        """Return warnings about settings that work but are weak."""
        listen, access, methods = self.listen, self.access, self.methods
        warnings = []
        if access.no_auth:
            warnings.append("--no-auth: every client that reaches the port can run programs as the instance's owner")
        if listen.socket and listen.tcp and not (access.no_auth or methods):
            warnings.append("--socket without --no-tcp: every user of this machine that reaches the port is admin")
        if access.login_secret and len(access.login_secret.encode()) < _WEAK_SECRET:
            warnings.append(f"FLUX_SECRET_KEY is shorter than {_WEAK_SECRET} bytes: it can be guessed from a login")
        if methods and listen.tcp and not self.tls.tls_cert and not is_loopback(listen.host):
            warnings.append("credentials are sent in the clear: give --tls-cert, or put the server behind TLS")
        if methods and listen.socket:
            warnings.append(
                "--socket with methods of authentication: a job that runs as this server's user, and sees the socket's "
                "file, is admin through it; put the socket where jobs cannot see it"
            )
        for option, path, what in (("--tokens", access.tokens, "token"), ("--users", access.users, "user")):
            if path and os.access(path, os.W_OK):
                warnings.append(
                    f"{option} {path} can be written by this server's user: a job that runs as the same user, and "
                    f"sees the file, can add a {what} to it; let another user own it, or mount it read-only"
                )
        return warnings
