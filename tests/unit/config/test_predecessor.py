"""Variables of flux-restful 1.1: read, named as ignored, or refused with what to use instead."""

from __future__ import annotations

import pytest

from sidecar.config import environment, predecessor
from sidecar.config.values import SettingsError
from tests.support.command_line import run_command
from tests.support.settings import make_settings


@pytest.mark.parametrize(
    ("backend", "methods"),
    [
        ("", ()),
        ("none", ()),
        ("NONE", ("login",)),
        ("shared-secret", ("login",)),
        ("oidc", ("oidc",)),
        ("database", ("token",)),
        ("database", ("user", "certificate")),
    ],
)
def test_backends(monkeypatch: pytest.MonkeyPatch, backend: str, methods: tuple[str, ...]) -> None:
    monkeypatch.setenv("FLUX_AUTH_BACKEND", backend)
    predecessor.check(methods)


@pytest.mark.parametrize(
    ("backend", "text"),
    [
        ("pam", "use --oidc-issuer, or --socket with --socket-users"),
        ("database", "there is no database"),
        ("shared-secret", "set FLUX_TOKEN and FLUX_SECRET_KEY"),
        ("oidc", "set FLUX_OIDC_ISSUER or --oidc-issuer"),
        ("ldap", "unknown backend 'ldap'; use one of none, shared-secret, oidc, database, pam"),
    ],
)
def test_backends_that_cannot_be_honoured(monkeypatch: pytest.MonkeyPatch, backend: str, text: str) -> None:
    monkeypatch.setenv("FLUX_AUTH_BACKEND", backend)
    with pytest.raises(SettingsError) as raised:
        predecessor.check(())
    assert text in str(raised.value)
    done = run_command("serve", "--embedded", FLUX_AUTH_BACKEND=backend)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())


def test_each_variable_is_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "FLUX_OIDC_ISSUER": "https://issuer.example.org",
        "FLUX_ADMIN_USERS": "alice",
        "FLUX_JOB_ENV_PASSTHROUGH": "OMP_*",
        "FLUX_TOKEN_SIGNING_KEY": "secret-key",
        "FLUX_PAM_SERVICE": "login",
        "FLUX_SERVER_MODE": "multi-user",
        "FLUX_AUTH_BACKEND": "oidc",
        "FLUX_OIDC_AUDIENCE": "flux",
        "FLUX_SIDECAR_OIDC_AUDIENCE": "other",  # takes precedence
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    notes = "\n".join(predecessor.notes(("oidc",)))
    assert "--oidc-issuer is taken from the variable FLUX_OIDC_ISSUER" in notes
    assert "--oidc-admins is taken from the variable FLUX_ADMIN_USERS" in notes
    assert "--job-environment is taken from the variable FLUX_JOB_ENV_PASSTHROUGH" in notes
    assert "FLUX_TOKEN_SIGNING_KEY is ignored" in notes
    assert "FLUX_SERVER_MODE=multi-user is ignored" in notes
    assert "every user of the issuer has the scope submit" in notes
    assert "FLUX_OIDC_AUDIENCE" not in notes
    assert "secret-key" not in notes


def test_none_does_not_turn_authentication_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_AUTH_BACKEND", "none")
    assert predecessor.notes(("login",)) == [
        "FLUX_AUTH_BACKEND=none is ignored: other settings require authentication (login)"
    ]
    assert not predecessor.notes(())


def test_jobs_do_not_inherit_them() -> None:
    names = ["FLUX_TOKEN_SIGNING_KEY", "FLUX_AUTH_BACKEND", "FLUX_OIDC_ISSUER", "FLUX_JOB_ENV_PASSTHROUGH"]
    assert environment.job_environment({**dict.fromkeys(names, "x"), "FLUX_EXEC_PATH": "y"}) == {"FLUX_EXEC_PATH": "y"}
    assert environment.is_secret("FLUX_TOKEN_SIGNING_KEY")


@pytest.mark.parametrize(
    ("backend", "option", "scope"), [("", "", None), ("oidc", "", "submit"), ("oidc", "read", "read")]
)
def test_default_scope(monkeypatch: pytest.MonkeyPatch, backend: str, option: str, scope: str | None) -> None:
    monkeypatch.setenv("FLUX_AUTH_BACKEND", backend)
    assert make_settings(oidc_default_scope=option).oidc.default_scope == scope
