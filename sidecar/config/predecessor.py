"""Variables of flux-restful 1.1: which options they set, and which of them cannot be honoured here.

Its manifests and scripts start this server too. So a variable that means something here is read, another one is named
in the log, and one that asks for something else than this server does prevents the start.
"""

from __future__ import annotations

import os

from sidecar.config.early import PREFIX
from sidecar.config.values import SettingsError, quoted

BACKEND = "FLUX_AUTH_BACKEND"
#: Variables that are options here, by the option's name.
_OPTIONS = {
    "oidc_issuer": "FLUX_OIDC_ISSUER",
    "oidc_audience": "FLUX_OIDC_AUDIENCE",
    "oidc_jwks": "FLUX_OIDC_JWKS_URL",
    "oidc_name_claim": "FLUX_OIDC_USERNAME_CLAIM",
    "oidc_admins": "FLUX_ADMIN_USERS",
    "job_environment": "FLUX_JOB_ENV_PASSTHROUGH",
}
#: Variables without a meaning here, and why.
_UNUSED = {
    "FLUX_TOKEN_SIGNING_KEY": "access tokens are signed with a key that is derived from the password",
    "FLUX_MIN_UID": "no user of the system logs in",
    "FLUX_PAM_SERVICE": "there is no login by PAM",
}
#: Backends of 1.1, with the methods that take their place and what else to do.
_BACKENDS: dict[str, tuple[frozenset[str], str]] = {
    "none": (frozenset(), ""),
    "shared-secret": (frozenset({"login"}), "set FLUX_TOKEN and FLUX_SECRET_KEY"),
    "oidc": (frozenset({"oidc"}), "set FLUX_OIDC_ISSUER or --oidc-issuer"),
    "database": (
        frozenset({"user", "token"}),
        "there is no database: add each user (flux-sidecar user add NAME --file FILE), and give --users FILE",
    ),
    "pam": (frozenset(), "there is no login by PAM: use --oidc-issuer, or --socket with --socket-users"),
}  # fmt: skip
PRIVATE = frozenset({BACKEND, *_OPTIONS.values(), *_UNUSED})
"""All variables of 1.1 that 0.2 does not have; no job inherits them."""


def backend() -> str:
    """Return the backend that the variable names; empty without one."""
    return os.environ.get(BACKEND, "").strip().lower()


def check(methods: tuple[str, ...]) -> None:
    """Check that the server does what its variables ask for.

    Args:
        methods: the configured methods of authentication.

    Raises:
        SettingsError: it does not; the text says what to set instead.
    """
    name = backend()
    if not name:
        return
    if name not in _BACKENDS:
        raise SettingsError(f"{BACKEND}: unknown backend {quoted(name)}; use one of {', '.join(_BACKENDS)}.")
    wanted, advice = _BACKENDS[name]
    if advice and not wanted & set(methods):
        raise SettingsError(f"{BACKEND}={name}: {advice}.")


def notes(methods: tuple[str, ...]) -> list[str]:
    """Return what to log about each variable of 1.1 that is set."""
    environ = os.environ
    found = [
        f"--{name.replace('_', '-')} is taken from the variable {variable}"
        for name, variable in _OPTIONS.items()
        if environ.get(variable) and not environ.get(f"{PREFIX}{name.upper()}")
    ]
    found += [f"{name} is ignored: {why}" for name, why in _UNUSED.items() if environ.get(name)]
    if environ.get("FLUX_SERVER_MODE") == "multi-user":
        found.append("FLUX_SERVER_MODE=multi-user is ignored: all jobs run as the instance's owner")
    if backend() == "oidc" and not environ.get(f"{PREFIX}OIDC_DEFAULT_SCOPE"):
        found.append(f"{BACKEND}=oidc: every user of the issuer has the scope submit (--oidc-default-scope)")
    if backend() == "none" and methods:
        found.append(f"{BACKEND}=none is ignored: other settings require authentication ({', '.join(methods)})")
    return found
