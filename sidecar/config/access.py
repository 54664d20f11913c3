"""The options that say who may call, where from, and how much.

Annotations are evaluated here, not later: Settings inherits them into a module that does not know these names.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

from sidecar.config import addresses
from sidecar.config.options import CREDENTIALS, SettingsError, is_loopback, option, parse_list

T = TypeVar("T")
Scope = Literal["read", "submit", "admin"]

_WEAK_SECRET = 14  # bytes; 112 bits, what NIST SP 800-131A asks of an HMAC key


def _is_set(_: Any, tokens: Sequence[Any]) -> bool:
    """Read a variable as the predecessor does: whatever it holds, it is set."""
    return any(token.value for token in tokens)


@dataclass(frozen=True, kw_only=True)
class AccessOptions:
    """Who may call. :class:`sidecar.settings.Settings` has all of these."""

    host: Annotated[str, option("host", "Address to listen on.", "HOST")] = "127.0.0.1"
    port: Annotated[int, option("port", "Port to listen on; 0 takes a free one.", "PORT")] = 5000
    tcp: Annotated[bool, option("tcp", "Listen on a port; without it on --socket alone.")] = True
    socket: Annotated[
        str,
        option(
            "socket",
            "Listen on this Unix socket too. A caller is identified by its uid; the owner has the scope admin.",
        ),
    ] = ""
    socket_users: Annotated[
        str,
        option(
            "socket_users",
            "Further users of the socket: user names or uids with their scopes, as in alice=submit,1001=read; *=read "
            "means every user.",
        ),
    ] = ""
    no_auth: Annotated[
        bool,
        option(
            "no_auth",
            "Accept every request without authentication. Needed to listen beyond loopback without any method.",
        ),
    ] = False
    require_auth: Annotated[
        bool,
        option(
            "require_auth",
            "Refuse to start without a method of authentication, on loopback too. Set to anything, the variables mean "
            "yes.",
            "FLUX_REQUIRE_AUTH",
            converter=_is_set,
        ),
    ] = False
    tokens: Annotated[
        str,
        option(
            "tokens",
            "File of bearer tokens, name:scopes:sha256 a line (`flux-sidecar token new` makes one). It is read again "
            "when it changes.",
        ),
    ] = ""
    tokens_secret: Annotated[
        str,
        option(
            "tokens_secret",
            "Secret of the server's namespace whose key `tokens` the file of --tokens is mounted from. The API server "
            "is asked for it every few seconds, so that a change counts before kubelet has written the file again.",
        ),
    ] = ""
    login_user: Annotated[str, option("login_user", "Name of the one user who has a password.", "FLUX_USER")] = (
        "fluxuser"
    )
    login_password: Annotated[
        str,
        option(
            "login_password",
            "Their password. Use the variable: a command line can be read by others.",
            "FLUX_TOKEN",
        ),
    ] = ""
    login_secret: Annotated[
        str,
        option(
            "login_secret",
            "What the server shares with flux-restful-client, which signs its login with it. Use the variable.",
            "FLUX_SECRET_KEY",
        ),
    ] = ""
    login_minutes: Annotated[
        float,
        option(
            "login_minutes",
            "How long an access token, and a browser's session, lasts.",
            "FLUX_ACCESS_TOKEN_EXPIRES_MINUTES",
            unit="minutes",
        ),
    ] = 600.0
    kubernetes_auth: Annotated[
        bool,
        option(
            "kubernetes_auth",
            "Let the Kubernetes API server say whose a token is (TokenReview), and by RBAC on miniclusters/jobs what "
            "they may do: get is read, create is submit, update is admin.",
        ),
    ] = False
    kubernetes_audience: Annotated[
        str, option("kubernetes_audience", "Audience that a Kubernetes token must be made for.")
    ] = "flux-sidecar"
    kubernetes_namespace: Annotated[
        str, option("kubernetes_namespace", "Namespace that RBAC is asked about; empty: the server's own.")
    ] = ""
    kubernetes_api: Annotated[
        str, option("kubernetes_api", "URL of the API server; empty: that of the cluster that the server runs in.")
    ] = ""
    kubernetes_credentials: Annotated[
        str, option("kubernetes_credentials", "Directory of the server's own token, ca.crt and namespace.")
    ] = CREDENTIALS
    minicluster: Annotated[
        str, option("minicluster", "Name of the MiniCluster that RBAC is asked about; empty: any of the namespace.")
    ] = ""
    oidc_issuer: Annotated[str, option("oidc_issuer", "Issuer whose JWTs are let in.")] = ""
    oidc_audience: Annotated[str, option("oidc_audience", "Audience that such a JWT must be made for.")] = (
        "flux-sidecar"
    )
    oidc_jwks: Annotated[
        str, option("oidc_jwks", "URL or file of the issuer's keys; empty: where its discovery document says.")
    ] = ""
    oidc_name_claim: Annotated[str, option("oidc_name_claim", "Claim that names the caller.")] = "sub"
    oidc_scope_claim: Annotated[
        str, option("oidc_scope_claim", "Claim that holds scopes or groups; dots go into objects.")
    ] = "scope"
    oidc_scopes: Annotated[
        str, option("oidc_scopes", "What the values of that claim mean here, as in flux-users=submit,flux-ops=admin.")
    ] = "flux:read=read,flux:submit=submit,flux:admin=admin"
    oidc_ca: Annotated[
        str, option("oidc_ca", "File of the authority that has signed the issuer's certificate; empty: the system's.")
    ] = ""
    tls_cert: Annotated[
        str, option("tls_cert", "Certificate chain of the server, as PEM. It is read again when it is renewed.")
    ] = ""
    tls_key: Annotated[str, option("tls_key", "Its private key, as PEM.")] = ""
    tls_client_ca: Annotated[
        str,
        option("tls_client_ca", "Authority whose client certificates are let in; the common name is the caller's."),
    ] = ""
    tls_client_scope: Annotated[Scope, option("tls_client_scope", "What the owner of a client certificate may do.")] = (
        "submit"
    )
    allowed_hosts: Annotated[
        str,
        option(
            "allowed_hosts",
            "Additional host names to accept, separated by commas; *.example.org is every name below. Always accepted: "
            "IP addresses, localhost, names of the cluster (.svc, .cluster.local, .kubernetes, the pod's own search "
            "domain), SERVICE.NAMESPACE of the pod's own, and names of a container's host (host.docker.internal). "
            "Requests with any other Host header are refused with 421. A name without a dot is accepted where a "
            "credential is required; elsewhere it must be this machine's, or that of a Service of the pod's namespace.",
        ),
    ] = ""
    allowed_origins: Annotated[
        str,
        option(
            "allowed_origins",
            "Other web pages that may call with a token (CORS), separated by commas, as in https://portal.example.org; "
            "none by default.",
        ),
    ] = ""
    trusted_proxies: Annotated[
        str,
        option(
            "trusted_proxies",
            "Addresses or networks of proxies whose X-Forwarded-For is trusted, separated by commas, as in 10.0.0.0/8: "
            "limits and audit then apply to the client that it names.",
        ),
    ] = ""
    rate_limit: Annotated[
        float,
        option(
            "rate_limit",
            "How often one caller may ask; twice as many at once. 0: as often as they like.",
            unit="requests a second",
        ),
    ] = 2000.0
    guess_limit: Annotated[
        float,
        option(
            "guess_limit",
            "How many invalid credentials one address may try in a burst, before it is limited to one a second. 0: "
            "unlimited.",
        ),
    ] = 20.0
    max_connections: Annotated[
        int, option("max_connections", "How many connections there may be; a quarter of them from one address.")
    ] = 4096
    max_streams: Annotated[int, option("max_streams", "How many streams may be followed at once.")] = 2048
    max_in_flight: Annotated[
        int,
        option(
            "max_in_flight",
            "How much of request bodies may be in memory at once, and as much again of answers that are not sent yet; "
            "a quarter of it for one caller, or one address.",
            unit="MiB",
        ),
    ] = 64
    header_timeout: Annotated[
        float, option("header_timeout", "How long a new connection may take to send its first request.", unit="seconds")
    ] = 10.0
    body_timeout: Annotated[
        float, option("body_timeout", "How long the body of a request may take, but for a bulk.", unit="seconds")
    ] = 60.0

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods by which a caller on the port can say who they are."""
        configured = {
            "token": self.tokens,
            "login": self.login_password,
            "oidc": self.oidc_issuer,
            "kubernetes": self.kubernetes_auth,
            "certificate": self.tls_client_ca,
        }
        return tuple(name for name, value in configured.items() if value)

    @property
    def authenticates(self) -> bool:
        """Whether callers on the port have to say who they are."""
        return bool(self.methods)

    def check_access(self, host_from: str = "", port_from: str = "") -> None:
        """Refuse what is not safe, or cannot work.

        Args:
            host_from: where the host comes from, for errors.
            port_from: where the port comes from.

        Raises:
            SettingsError: with a text for the person who typed the command.
        """
        self._check_methods(host_from)
        self._check_numbers(port_from)
        if self.tokens_secret and not self.tokens:
            raise SettingsError("--tokens-secret: give --tokens too, the file that the Secret is mounted at.")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise SettingsError("--tls-cert and --tls-key belong together: give both.")
        if self.tls_client_ca and not self.tls_cert:
            raise SettingsError("--tls-client-ca: certificates are seen by TLS alone; give --tls-cert and --tls-key.")
        if not self.tcp and not self.socket:
            raise SettingsError("--no-tcp leaves nothing to listen on: give --socket.")
        if self.socket_users and not self.socket:
            raise SettingsError("--socket-users: give --socket too.")
        parse_scopes("--socket-users", self.socket_users)
        parse_scopes("--oidc-scopes", self.oidc_scopes)
        read_list("--trusted-proxies", self.trusted_proxies, addresses.network)
        read_list("--allowed-hosts", self.allowed_hosts, addresses.allowed_host)
        read_list("--allowed-origins", self.allowed_origins, addresses.origin)

    def _check_methods(self, host_from: str) -> None:
        if self.tcp:
            try:
                addresses.check_listening(self.host)
            except ValueError as exc:
                raise SettingsError(f"--host{host_from}: {exc}.") from None
        if self.no_auth and self.methods:
            raise SettingsError(
                f"--no-auth and a method of authentication ({', '.join(self.methods)}) exclude each other: choose."
            )
        if self.require_auth and not self.methods:
            raise SettingsError(f"--require-auth (FLUX_REQUIRE_AUTH): {_NO_METHOD}")
        if self.tcp and not self.no_auth and not self.methods and not is_loopback(self.host):
            raise SettingsError(
                f"Listening on {self.host}{host_from} would let any client that reaches port {self.port} run programs "
                f"here. {_NO_METHOD}\n\nOr listen on 127.0.0.1 (kubectl port-forward reaches it), or add --no-auth if "
                "that is meant."
            )

    def _check_numbers(self, port_from: str) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingsError(f"--port {self.port}{port_from} is not a port: use 0 to 65535.")
        for name in (
            "max_connections",
            "max_streams",
            "max_in_flight",
            "header_timeout",
            "body_timeout",
            "login_minutes",
        ):
            if getattr(self, name) <= 0:
                raise SettingsError(f"--{name.replace('_', '-')} must be more than 0.")
        if self.rate_limit < 0 or self.guess_limit < 0:
            raise SettingsError("--rate-limit and --guess-limit must not be negative.")

    def warnings(self) -> list[str]:
        """What works, and is weak."""
        found = []
        if self.no_auth:
            found.append("--no-auth: every client that reaches the port can run programs as the instance's owner")
        if self.socket and self.tcp and not (self.no_auth or self.methods):
            found.append("--socket without --no-tcp: every user of this machine who reaches the port is admin")
        if self.login_secret and len(self.login_secret.encode()) < _WEAK_SECRET:
            found.append(f"FLUX_SECRET_KEY is shorter than {_WEAK_SECRET} bytes: it can be guessed from a login")
        if self.methods and self.tcp and not self.tls_cert and not is_loopback(self.host):
            found.append("credentials are sent in the clear: give --tls-cert, or put the server behind TLS")
        if self.methods and self.socket:
            found.append(
                "--socket with methods of authentication: a job that runs as this server's user, and sees the socket's "
                "file, is admin through it; keep the socket where jobs do not see it"
            )
        if self.tokens and os.access(self.tokens, os.W_OK):
            found.append(
                f"--tokens {self.tokens} can be written by this server's user: a job that runs as the same user, and "
                "sees the file, can add a token to it; let another user own it, or mount it read-only"
            )
        return found


_NO_METHOD = """No method of authentication is set. Give one or more of:

    --tokens FILE             bearer tokens (flux-sidecar token new NAME --file FILE)
    --kubernetes-auth         the cluster's own tokens, and RBAC
    --oidc-issuer URL         JWTs of an identity provider
    FLUX_TOKEN=PASSWORD       one user with a password; with FLUX_SECRET_KEY for flux-restful-client
    --tls-client-ca FILE      client certificates"""


def read_list(name: str, text: str, read: Callable[[str], T]) -> list[T]:
    """Read each of the values of an option that are separated by commas.

    Raises:
        SettingsError: one of them is not valid.
    """
    try:
        return [read(word) for word in parse_list(text)]
    except ValueError as exc:
        raise SettingsError(f"{name}: {exc}.") from None


def parse_scopes(name: str, text: str) -> dict[str, Scope]:
    """Read ``alice=submit,bob=read``.

    Raises:
        SettingsError: it is of another form, or names no scope.
    """
    found: dict[str, Scope] = {}
    for part in parse_list(text):
        who, equals, scope = part.rpartition("=")
        if not equals or not who or scope not in ("read", "submit", "admin"):
            raise SettingsError(f"{name}: {part!r} is not of the form NAME=SCOPE; scopes are read, submit, admin.")
        found[who] = cast(Scope, scope)
    return found
