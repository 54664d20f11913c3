"""The options of ``serve`` by subject, in the order in which ``--help`` and docs/settings.md list them."""

from __future__ import annotations

from cyclopts import Group

GROUPS: dict[str, tuple[str, ...]] = {
    "Where jobs run": ("uri", "embedded", "cores", "store"),
    "Listening": ("host", "port", "tcp", "socket", "allowed_hosts", "allowed_origins", "trusted_proxies"),
    "Authentication": (
        "no_auth", "require_auth", "tokens", "tokens_secret", "socket_users", "login_user", "login_password",
        "login_secret", "login_minutes", "metrics_open",
    ),
    "Kubernetes authentication": (
        "kubernetes_auth", "kubernetes_audience", "kubernetes_namespace", "kubernetes_api", "kubernetes_credentials",
        "minicluster",
    ),
    "OpenID Connect": (
        "oidc_issuer", "oidc_audience", "oidc_jwks", "oidc_name_claim", "oidc_scope_claim", "oidc_scopes", "oidc_ca",
    ),
    "TLS": ("tls_cert", "tls_key", "tls_client_ca", "tls_client_scope"),
    "Jobs and stop": ("option_flags", "launchers", "idle_stop", "stop_on_signal", "start_timeout", "kill_timeout"),
    "Limits": (
        "rate_limit", "guess_limit", "max_connections", "max_streams", "max_in_flight", "max_body", "bulk_window",
        "header_timeout", "body_timeout", "send_timeout", "heartbeat",
    ),
    "Connection to Flux": ("rpc_timeout", "silence_timeout", "lost_timeout"),
    "Logs, metrics and probes": (
        "log_level", "log_format", "log_requests", "log_jobs", "metrics_port", "metrics_users", "min_free_disk",
    ),
    "Pods of a MiniCluster": (
        "completion_index", "follower_wait", "linger", "end_file", "quorum", "end_when_dead", "kubernetes_job",
    ),
}  # fmt: skip

LISTS = frozenset(
    {"allowed_hosts", "allowed_origins", "trusted_proxies", "socket_users", "oidc_scopes", "launchers", "scopes"}
)
"""Options that take several values, separated by commas."""

_GROUP_OF = {
    name: Group(title, sort_key=number) for number, (title, names) in enumerate(GROUPS.items()) for name in names
}


def group_of(name: str) -> Group:
    """Return the group of an option; a new option has to be added to one."""
    return _GROUP_OF[name]
