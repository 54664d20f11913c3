"""Users with passwords, from a file: each way to log in, scopes, limits, and changes while the server runs."""

from __future__ import annotations

import functools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flux_restful_client.main import get_client

from tests.contract.test_errors import problem
from tests.contract.test_login import SECRET, signed
from tests.support.access import TokenFile, Users, audit
from tests.support.harness import BIN, SIDECAR, Server, embedded, eventually

OWNER = {"FLUX_USER": "owner", "FLUX_TOKEN": "the owner's password", "FLUX_SECRET_KEY": SECRET}


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(tmp_path, alice="submit", bob="read", carol="admin")


@pytest.fixture
def server(own_server: Callable[..., Server], users: Users) -> Server:
    return own_server(*users.options, "--log-format", "json", **OWNER)


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def patient(own_server: Callable[..., Server], users: Users) -> Iterator[httpx.Client]:
    """A client of a server without a limit of failed logins, for tests that wait for the end of a credential."""
    server = own_server(*users.options, "--guess-limit", "0", **OWNER)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def log_in(http: httpx.Client, name: str, password: str, how: str) -> dict[str, Any]:
    """Log in, and return what to send with a request."""
    if how == "basic":
        return {"auth": (name, password)}
    if how == "form":
        answer = http.post("/v1/login/access-token", data={"username": name, "password": password})
    elif how == "signed":
        answer = http.post("/v1/token", headers=signed({"user": name, "pass": password, "scope": "token"}))
    else:
        answer = http.post("/login", data={"user": name, "password": password})
        assert answer.status_code == 303
        return {"headers": {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}}
    assert answer.status_code == 200, answer.text
    return {"headers": bearer(answer.json()["access_token"])}


WAYS = ("basic", "form", "signed", "page")


def test_every_way_to_log_in(http: httpx.Client, users: Users) -> None:
    expected = {"alice": ["read", "submit"], "bob": ["read"], "carol": ["read", "submit", "admin"]}
    for how in WAYS:
        for name, scopes in expected.items():
            whoami = http.get("/v1/whoami", **log_in(http, *users.basic(name), how)).json()
            assert (whoami["name"], whoami["scopes"], whoami["method"]) == (name, scopes, "user")
            assert (whoami["expires"] is None) == (how == "basic")
        owner = http.get("/v1/whoami", **log_in(http, "owner", OWNER["FLUX_TOKEN"], how)).json()
        assert (owner["name"], owner["scopes"][-1], owner["method"]) == ("owner", "admin", "login")


def test_wrong_logins(server: Server, http: httpx.Client, users: Users) -> None:
    for name, password in (("alice", "wrong"), ("eve", users.passwords["alice"]), ("alice", users.passwords["bob"])):
        problem(http.get("/v1/jobs", auth=(name, password)), 401)
        refused = problem(http.post("/v1/login/access-token", data={"username": name, "password": password}), 400)
        assert refused["Message"] == "Denied"
        claims: dict[str, object] = {"user": name, "pass": password, "scope": "token"}
        problem(http.post("/v1/token", headers=signed(claims)), 400)
        assert http.post("/login", data={"user": name, "password": password}).status_code == 401
    found = eventually(lambda: found if len(found := audit(server)) >= 12 else None)
    assert {each["outcome"] for each in found} == {"refused"}
    assert users.passwords["alice"] not in server.text()


def test_logins_are_audited(server: Server, http: httpx.Client, users: Users) -> None:
    log_in(http, *users.basic("alice"), "form")
    assert http.post("/v1/jobs/submit", data={"command": "true"}, auth=users.basic("alice")).status_code == 200
    first, second = eventually(lambda: found if len(found := audit(server)) == 2 else None)
    assert (first["action"], first["outcome"], first["caller"]) == ("login_access_token", "done", "alice")
    assert (second["action"], second["caller"], second["method"]) == ("jobs_submit", "alice", "user")


@pytest.mark.parametrize("how", WAYS)
def test_scopes(http: httpx.Client, users: Users, how: str) -> None:
    def status(name: str, path: str) -> int:
        return http.post(path, json={"command": "true"}, **log_in(http, *users.basic(name), how)).status_code

    assert [status(name, "/v1/jobs/submit") for name in ("bob", "alice", "carol")] == [403, 200, 200]
    assert [status(name, "/v1/queues/default/stop") == 403 for name in ("bob", "alice", "carol")] == [True, True, False]


def test_the_client_of_flux_restful_logs_in(server: Server, users: Users) -> None:
    """The first of its requests gets 401; the client logs in and repeats it."""
    client = get_client(host=server.url, user="alice", token=users.passwords["alice"], secret_key=SECRET)
    job = client.submit("printenv A", envars={"A": "b c"})["id"]
    details = server.http.get(f"/v1/jobs/{job}?wait=60", auth=users.basic("bob")).json()
    assert (details["submitter"], details["result"]) == ("alice", "COMPLETED")
    assert client.output(job) == {"Output": ["b c\n"]}
    assert [each["id"] for each in client.jobs()["jobs"]] == [job]
    client.session.close()
    variables = {"FLUX_RESTFUL_HOST": server.url, "FLUX_USER": "bob", "FLUX_TOKEN": users.passwords["bob"]}
    done = subprocess.run(
        [str(BIN / "flux-restful-cli"), "list-nodes"],
        env={**os.environ, **variables, "FLUX_SECRET_KEY": SECRET}, text=True, capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_without_a_shared_secret(own_server: Callable[..., Server], users: Users) -> None:
    """Access tokens are signed with a secret of this server alone."""
    first = own_server(*users.options)
    with httpx.Client(base_url=first.url, timeout=60) as http:
        assert "FLUX_SECRET_KEY" in problem(http.post("/v1/token", headers=signed({"user": "alice"})), 400)["detail"]
        login = log_in(http, *users.basic("alice"), "form")
        assert http.get("/v1/jobs", **login).status_code == 200
    second = own_server(*users.options)
    problem(second.http.get("/v1/jobs", **login), 401)
    problem(second.http.get("/v1/jobs"), 401)


def test_failed_logins_are_limited(http: httpx.Client, users: Users) -> None:
    """Beyond the limit a right password is refused too, with each way to log in; sessions and access tokens go on."""
    known = [log_in(http, *users.basic("alice"), how) for how in ("form", "signed", "page")]
    name, password = users.basic("alice")
    logins: dict[str, Callable[[], httpx.Response]] = {
        "basic": lambda: http.get("/v1/jobs", auth=(name, password)),
        "form": lambda: http.post("/v1/login/access-token", data={"username": name, "password": password}),
        "signed": lambda: http.post("/v1/token", headers=signed({"user": name, "pass": password, "scope": "token"})),
        "page": lambda: http.post("/login", data={"user": name, "password": password}),
    }
    assert logins["basic"]().status_code == 200

    def refused(log_in: Callable[[], httpx.Response]) -> bool:
        """Whether a login is refused, right after a wrong one was: a second later there is another attempt."""
        return http.get("/v1/jobs", auth=(name, "a guess")).status_code == 429 and log_in().status_code == 429

    for how, login in logins.items():
        eventually(functools.partial(refused, login), what=f"limit of {how}")
        assert [http.get("/v1/jobs", **each).status_code for each in known] == [200] * 3
    eventually(lambda: logins["basic"]().status_code == 200, what="another attempt")


def test_a_removed_user_is_refused_at_once(patient: httpx.Client, users: Users) -> None:
    """With each credential that the user has had; those of others stay valid."""
    logins = {name: [log_in(patient, *users.basic(name), how) for how in WAYS] for name in ("alice", "bob")}

    def statuses(name: str) -> list[int]:
        return [patient.get("/v1/jobs", **login).status_code for login in logins[name]]

    assert statuses("alice") == statuses("bob") == [200] * 4
    subprocess.run([SIDECAR, "user", "remove", "alice", "--file", str(users.path)], check=True)
    eventually(lambda: statuses("alice") == [401] * 4, what="end of the user")
    assert statuses("bob") == [200] * 4


def test_the_file_is_reloaded(patient: httpx.Client, users: Users) -> None:
    """A new password, other scopes, a new user, a broken line."""
    logins = {name: [log_in(patient, *users.basic(name), how) for how in WAYS] for name in ("alice", "bob")}
    users.put("alice", "submit", "a new password")
    users.path.write_text(users.path.read_text().replace("bob:read", "bob:submit") + "broken line\n")
    users.put("dave", "read", "the password of dave")

    def scopes(login: dict[str, Any]) -> list[str]:
        return list(patient.get("/v1/whoami", **login).json().get("scopes", ()))

    eventually(lambda: patient.get("/v1/whoami", auth=users.basic("dave")).status_code == 200, what="the new user")
    eventually(lambda: [scopes(login) for login in logins["bob"]] == [["read", "submit"]] * 4, what="new scopes")
    eventually(lambda: [scopes(login) for login in logins["alice"]] == [[]] * 4, what="end of the old password")
    assert patient.get("/v1/whoami", auth=users.basic("alice")).status_code == 200
    users.path.unlink()
    eventually(lambda: patient.get("/v1/jobs", auth=users.basic("bob")).status_code == 401, what="end of all users")
    assert patient.get("/v1/jobs", auth=("owner", OWNER["FLUX_TOKEN"])).status_code == 200


def test_the_login_page_asks_for_a_password(own_server: Callable[..., Server], users: Users, tmp_path: Path) -> None:
    alone = own_server(*users.options).http.get("/").text
    assert ('name="password"' in alone, 'name="token"' in alone) == (True, False)
    both = own_server(*users.options, *TokenFile(tmp_path / "more", someone="read").options).http.get("/").text
    assert ('name="password"' in both, 'name="token"' in both) == (True, True)


def test_an_expired_token_is_refused(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, kept="read")
    argv = [SIDECAR, "token", "new", "brief", "--scopes", "read", "--file", str(tokens.path)]
    lasting = subprocess.run([*argv, "--expires", "30d"], check=True, text=True, capture_output=True).stdout.strip()
    ended = subprocess.run([*argv, "--expires", "1s"], check=True, text=True, capture_output=True).stdout.strip()
    server = own_server(*tokens.options)
    assert server.http.get("/v1/whoami", headers=bearer(lasting)).json()["expires"] > 0
    assert server.http.get("/v1/whoami", headers=tokens.headers("kept")).json()["expires"] is None
    eventually(lambda: server.http.get("/v1/jobs", headers=bearer(ended)).status_code == 401, what="end of the token")


# ------------------------------------------------------------------------------------------------ how to log in


def auth(server: Server) -> dict[str, Any]:
    answer = server.http.get("/v1/auth")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_how_to_log_in(tmp_path: Path, started: Callable[[Server], Server], users: Users) -> None:
    """As clients of flux-restful 1.1 read it, without a credential."""
    tokens = TokenFile(tmp_path / "tokens", someone="read")
    shared = {name: OWNER[name] for name in ("FLUX_TOKEN", "FLUX_SECRET_KEY")}
    issuer = ("--oidc-issuer", "https://login.example.org", "--oidc-audience", "me")
    oidc = {"issuer": "https://login.example.org", "audience": "me"}
    cases: list[tuple[tuple[str, ...], dict[str, str], dict[str, Any]]] = [
        ((), {}, {"backend": "none", "password_login": False, "shared_secret_handshake": False}),
        (users.options, {}, {"backend": "database", "password_login": True, "shared_secret_handshake": False}),
        (users.options, shared, {"backend": "database", "password_login": True, "shared_secret_handshake": True}),
        ((), shared, {"backend": "shared-secret", "password_login": True, "shared_secret_handshake": True}),
        (tokens.options, {}, {"backend": "token", "password_login": False, "shared_secret_handshake": False}),
        (
            (*issuer, *tokens.options), {},
            {"backend": "oidc", "password_login": False, "shared_secret_handshake": False, "oidc": oidc},
        ),
    ]  # fmt: skip
    for number, (options, variables, expected) in enumerate(cases):
        server = started(embedded(tmp_path / str(number), *options, **variables))
        assert auth(server) == expected
        server.close()
