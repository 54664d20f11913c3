"""Callers of ``/api/v1``: scopes, owners, limits and the audit log as everywhere, errors in the dialect; and X-Token."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.contract.test_rest_v1 import JOBS, ROOT, error
from tests.contract.test_socket import as_user
from tests.support.access import TokenFile, audit
from tests.support.harness import Server, embedded, eventually

LIMITS = ("--rate-limit", "0", "--log-format", "json")
SLEEP = {"command": ["sleep", "60"]}


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "callers", alice="submit", bob="submit", reader="read", root="admin")


@pytest.fixture
def secured(own_server: Callable[..., Server], tokens: TokenFile) -> Server:
    return own_server(*tokens.options, *LIMITS)


def x_token(tokens: TokenFile, name: str) -> dict[str, str]:
    return {"X-Token": tokens.tokens[name]}


def test_credentials(secured: Server) -> None:
    assert secured.http.get(f"{ROOT}/health").status_code == 200
    for method, path in (
        ("GET", "/"),
        ("POST", "/jobs"),
        ("GET", "/jobs/f1"),
        ("DELETE", "/jobs/f1"),
        ("GET", "/nope"),
    ):
        answer = secured.http.request(method, f"{ROOT}{path}")
        assert error(answer, 401)["error"].startswith("Credentials are required")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    browser = secured.http.get(f"{ROOT}/", headers={"Accept": "text/html"})
    assert error(browser, 401)


def test_scopes(secured: Server, tokens: TokenFile) -> None:
    reader = tokens.headers("reader")
    assert secured.http.get(f"{ROOT}/", headers=reader).status_code == 200
    assert error(secured.http.get(f"{JOBS}/f1", headers=reader), 404)
    for answer in (
        secured.http.post(JOBS, json=SLEEP, headers=reader),
        secured.http.delete(f"{JOBS}/f1", headers=reader),
    ):
        refused = error(answer, 403)
        assert refused["error"] == "forbidden"
        assert "scope submit" in refused["detail"]


def test_owners(secured: Server, tokens: TokenFile) -> None:
    alice, bob = tokens.headers("alice"), tokens.headers("bob")
    job = secured.http.post(JOBS, json=SLEEP, headers=alice).json()["id"]
    refused = error(secured.http.delete(f"{JOBS}/{job}", headers=bob), 403)
    assert refused["error"] == "forbidden"
    assert "submitted by alice" in refused["detail"]
    assert secured.http.get(f"{JOBS}/{job}", headers=bob).status_code == 200
    assert secured.http.get(f"/v1/jobs/{job}", headers=bob).json()["submitter"] == "alice"
    assert secured.http.delete(f"{JOBS}/{job}", headers=alice).status_code == 202
    other = secured.http.post(JOBS, json=SLEEP, headers=bob).json()["id"]
    assert secured.http.delete(f"{JOBS}/{other}", headers=tokens.headers("root")).status_code == 202


def test_idempotency_keys_of_two_callers(secured: Server, tokens: TokenFile) -> None:
    found = [
        secured.http.post(JOBS, json=SLEEP, headers={**tokens.headers(name), "Idempotency-Key": "1"}).json()["id"]
        for name in ("alice", "alice", "bob")
    ]
    assert found[0] == found[1] != found[2]


def test_audit_events(secured: Server, tokens: TokenFile) -> None:
    alice, secret = tokens.headers("alice"), "hunter2"
    body = {**SLEEP, "environment": {"PATH": "/bin:/usr/bin", "PASSWORD": secret}}
    job = secured.http.post(JOBS, json=body, headers=alice).json()["id"]
    secured.http.delete(f"{JOBS}/{job}", headers=tokens.headers("bob"))
    secured.http.delete(f"{JOBS}/{job}?reason={secret}", headers=alice)
    secured.http.delete(f"{ROOT}/nope", headers=alice)
    events = eventually(lambda: found if len(found := audit(secured)) >= 4 else None)
    done, refused, cancelled, unknown = events[-4:]
    assert (done["action"], done["status"], done["caller"], done["outcome"]) == ("rest_submit", 201, "alice", "done")
    assert done["details"]["job"].replace("ƒ", "f") == job
    assert (refused["action"], refused["outcome"], refused["caller"]) == ("rest_cancel", "refused", "bob")
    assert (cancelled["status"], cancelled["details"]["job"]) == (202, job)
    assert (unknown["action"], unknown["status"]) == (f"DELETE {ROOT}/nope", 404)
    assert secret not in secured.text()


def test_rate_limit(own_server: Callable[..., Server], tokens: TokenFile) -> None:
    server = own_server(*tokens.options, "--rate-limit", "1")
    reader = tokens.headers("reader")
    limited = eventually(
        lambda: answer if (answer := server.http.get(f"{ROOT}/", headers=reader)).status_code == 429 else None
    )
    assert "--rate-limit" in error(limited, 429)["error"]
    assert int(limited.headers["Retry-After"]) >= 1


def test_pages_of_other_origins(secured: Server, tokens: TokenFile) -> None:
    headers = {**tokens.headers("alice"), "Origin": "https://elsewhere.example"}
    for answer in (
        secured.http.post(JOBS, json=SLEEP, headers=headers),
        secured.http.delete(f"{JOBS}/f1", headers=headers),
    ):
        assert error(answer, 403)["error"] == "forbidden"
    assert error(secured.http.get(f"{ROOT}/health", headers={"Host": "elsewhere.example"}), 421)


def test_preflight_of_allowed_origins(tmp_path: Path, tokens: TokenFile, started: Callable[[Any], Any]) -> None:
    portal = "https://portal.example.org"
    server = started(embedded(tmp_path, *tokens.options, "--allowed-origins", portal)).ready()
    asked = server.http.options(
        f"{JOBS}/f1", headers={"Origin": portal, "Access-Control-Request-Method": "DELETE"}
    ).headers
    assert "DELETE" in asked["Access-Control-Allow-Methods"]
    assert "X-Token" in asked["Access-Control-Allow-Headers"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can send requests as other users")
def test_other_users_of_the_socket(started: Callable[[Any], Any], tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:  # that other users can reach
        Path(directory).chmod(0o755)
        path = Path(directory) / "socket"
        started(embedded(tmp_path, "--socket", str(path), "--socket-users", "daemon=admin")).ready()
        assert as_user(65534, path, "GET", f"{ROOT}/") == "403"
        assert as_user(0, path, "GET", f"{ROOT}/") == "200"


# ------------------------------------------------------------------------------------------------------ X-Token


def test_x_token_is_a_bearer_credential_everywhere(secured: Server, tokens: TokenFile) -> None:
    alice = x_token(tokens, "alice")
    assert secured.http.get("/v1/whoami", headers=alice).json()["name"] == "alice"
    assert secured.http.get(f"{ROOT}/", headers={"x-token": tokens.tokens["reader"]}).status_code == 200
    assert secured.http.post(JOBS, json=SLEEP, headers=alice).status_code == 201
    assert secured.http.get("/", headers={**alice, "Accept": "text/html"}).status_code == 200
    refused = secured.http.post("/v1/nodes/0/drain", json={}, headers=alice)
    assert "scope admin" in problem(refused, 403)["detail"]


@pytest.mark.parametrize("token", ["wrong", "", "Bearer x", "fxs_" + "A" * 43])
def test_wrong_x_token(secured: Server, token: str) -> None:
    assert error(secured.http.get(f"{ROOT}/", headers={"X-Token": token}), 401)
    problem(secured.http.get("/v1/jobs", headers={"X-Token": token}), 401)


def test_authorization_takes_precedence(secured: Server, tokens: TokenFile) -> None:
    both = {**tokens.headers("reader"), **x_token(tokens, "alice")}
    assert secured.http.get("/v1/whoami", headers=both).json()["name"] == "reader"
    wrong = {"Authorization": "Bearer wrong", **x_token(tokens, "alice")}
    assert error(secured.http.get(f"{ROOT}/", headers=wrong), 401)
    right = {**tokens.headers("reader"), "X-Token": "wrong"}
    assert secured.http.get(f"{ROOT}/", headers=right).status_code == 200


def test_repeated_x_token(secured: Server, tokens: TokenFile) -> None:
    twice = [("X-Token", tokens.tokens["alice"]), ("X-Token", "other")]
    assert error(secured.http.get(f"{ROOT}/", headers=twice), 401)["error"] == "X-Token: send it once."


def test_guesses_by_x_token_are_limited(own_server: Callable[..., Server], tokens: TokenFile) -> None:
    """With the guesses in Authorization, from the same address."""
    server = own_server(*tokens.options, *LIMITS)
    statuses = []
    for number in range(200):
        name = ("X-Token", "Authorization")[number % 2]
        value = f"guess{number}" if name == "X-Token" else f"Bearer guess{number}"
        statuses.append(server.http.get(f"{ROOT}/", headers={name: value}).status_code)
        if statuses[-1] == 429:
            break
    assert set(statuses[:-1]) == {401}
    assert statuses[-1] == 429
    # A client over the limit does not learn that a guess is right.
    limited = server.http.get(f"{ROOT}/", headers=x_token(tokens, "alice"))
    assert "failed logins" in error(limited, 429)["error"]


def test_x_token_is_not_logged(secured: Server, tokens: TokenFile) -> None:
    secured.http.get(f"{ROOT}/", headers=x_token(tokens, "alice"))
    secured.http.delete(f"{JOBS}/f1", headers=x_token(tokens, "alice"))
    secured.http.get(f"{ROOT}/", headers={"X-Token": "hunter2-hunter2"})
    secured.http.get(f"{ROOT}/nope", headers={"X-Token": "hunter2-hunter2"})
    eventually(lambda: len(audit(secured)) >= 3)
    with httpx.Client(base_url=secured.url) as client:
        assert client.get("/livez").status_code == 200
    assert "hunter2" not in secured.text()
    assert tokens.tokens["alice"] not in secured.text()
