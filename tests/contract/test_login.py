"""Login: as the predecessor's client from PyPI does it, by hand, and in a browser."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import httpx
import pytest
from flux_restful_client.main import get_client
from joserfc import jwt
from joserfc.jwk import OctKey

from tests.contract.test_errors import problem
from tests.support.access import TokenFile, audit
from tests.support.harness import BIN, Server, eventually

HOST_NAME = socket.gethostname().lower()
USER, PASSWORD, SECRET = "someone", "a password", "a secret that is shared with clients"
LOGIN = {"FLUX_USER": USER, "FLUX_TOKEN": PASSWORD, "FLUX_SECRET_KEY": SECRET, "FLUX_REQUIRE_AUTH": "true"}


@pytest.fixture
def secured(own_server: Callable[..., Server]) -> Server:
    return own_server("--log-format", "json", **LOGIN)


@pytest.fixture
def http(secured: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=secured.url, timeout=60) as client:
        yield client


def signed(claims: dict[str, object], secret: str = SECRET, **header: str) -> dict[str, str]:
    token = jwt.encode({"alg": "HS256", **header}, claims, OctKey.import_key(secret))
    return {"Authorization": f"Bearer {token}"}


def test_library_logs_in(secured: Server) -> None:
    """The first of its requests gets 401; the client logs in and repeats it."""
    client = get_client(host=secured.url, user=USER, token=PASSWORD, secret_key=SECRET)
    job = client.submit("printenv A", envars={"A": "b c"}, num_tasks=1)["id"]
    assert secured_job(secured, client.headers, job)["submitter"] == USER
    assert client.output(job) == {"Output": ["b c\n"]}
    assert client.jobs(job)["returncode"] == 0
    assert [each["id"] for each in client.jobs()["jobs"]] == [job]
    assert client.jobs(detail=True, listing=True)[0]["id"] == job
    assert client.search("printenv")["recordsFiltered"] == 1
    assert len(client.list_nodes()["nodes"]) == 1
    assert "cannot be cancelled" in client.cancel(job)["Message"]
    assert "Message" in client.stop_service()
    client.session.close()
    assert secured.wait() == 0


def secured_job(server: Server, headers: dict[str, str], job: int) -> dict[str, object]:
    def ended() -> dict[str, object] | None:
        found = server.http.get(f"/v1/jobs/{job}", headers=headers).json()
        return found if found["state"] == "INACTIVE" else None

    return eventually(ended)


def test_command_line_logs_in(secured: Server) -> None:
    environment = {**os.environ, **LOGIN, "FLUX_RESTFUL_HOST": secured.url}
    done = subprocess.run(
        [str(BIN / "flux-restful-cli"), "list-nodes"], env=environment, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["nodes"]) == 1


def test_signed_login(http: httpx.Client) -> None:
    claims: dict[str, object] = {"user": USER, "pass": PASSWORD, "scope": "token"}
    answer = http.post("/v1/token", headers=signed(claims))
    assert answer.status_code == 200
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 36000)
    bearer = {"Authorization": f"Bearer {answer.json()['access_token']}"}
    whoami = http.get("/v1/whoami", headers=bearer).json()
    assert (whoami["name"], whoami["scopes"], whoami["method"]) == (USER, ["read", "submit", "admin"], "login")
    assert 0 < whoami["expires"] - time.time() <= 36000


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({}, "none"),
        ({"Authorization": "Bearer"}, "empty"),
        ({"Authorization": "Bearer not.a.jwt"}, "no JWT"),
        (signed({"user": USER, "pass": "wrong", "scope": "token"}), "wrong password"),
        (signed({"user": "other", "pass": PASSWORD, "scope": "token"}), "wrong user"),
        (signed({"user": USER, "pass": PASSWORD, "scope": "login"}), "wrong scope"),
        (signed({"user": USER, "pass": PASSWORD}), "no scope"),
        (signed({"user": USER, "pass": [PASSWORD], "scope": "token"}), "no text"),
        (signed({"user": USER, "pass": PASSWORD, "scope": "token"}, secret=SECRET + "x"), "wrong secret"),
        (signed({"user": USER, "pass": PASSWORD, "scope": "token", "exp": 1}), "expired"),
        ({"Authorization": "Bearer eyJhbGciOiJub25lIn0.eyJ1c2VyIjoic29tZW9uZSJ9."}, "alg none"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_failing_login(http: httpx.Client, headers: dict[str, str], why: str) -> None:
    """400 as from the predecessor: after 401 its client would retry forever."""
    body = problem(http.post("/v1/token", headers=headers), 400)
    assert body["Message"] == "Denied", why
    assert PASSWORD not in json.dumps(body)


def test_failing_login_is_audited_as_refused(secured: Server, http: httpx.Client) -> None:
    http.post("/v1/token", headers=signed({"user": USER, "pass": "wrong", "scope": "token"}))
    http.post("/v1/login/access-token", data={"username": USER, "password": "wrong"})
    found = eventually(lambda: found if len(found := audit(secured)) == 2 else None)
    assert [(each["outcome"], each["status"]) for each in found] == [("refused", 400)] * 2


@pytest.mark.parametrize("path", ["/v1/login/access-token", "/login"])
def test_password_in_a_url_is_refused(http: httpx.Client, path: str) -> None:
    names = {"username": USER, "user": USER, "password": PASSWORD}
    wanted = ("username", "password") if path != "/login" else ("user", "password")
    answer = http.post(path, params={name: names[name] for name in wanted})
    assert "addresses are logged" in problem(answer, 400)["detail"]


def test_oauth_form(http: httpx.Client) -> None:
    form = {"username": USER, "password": PASSWORD, "grant_type": "password"}
    token = http.post("/v1/login/access-token", data=form).json()["access_token"]
    assert http.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    refused = problem(http.post("/v1/login/access-token", data={**form, "password": "x"}), 400)
    assert refused["Message"] == "Denied"


def test_password_in_a_header(http: httpx.Client) -> None:
    assert http.get("/v1/jobs", auth=(USER, PASSWORD)).status_code == 200
    problem(http.get("/v1/jobs", auth=(USER, "x")), 401)
    problem(http.get("/v1/jobs", headers={"Authorization": "Basic ???"}), 401)
    problem(http.get("/v1/jobs", headers={"Authorization": "Digest x"}), 401)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": USER},
        {"sub": USER, "exp": 1, "iss": "flux-sidecar"},
        {"sub": USER, "exp": 2**40, "iss": "flux-sidecar"},
        {"sub": "1", "exp": 2**40},
    ],
)
def test_secret_does_not_sign_access_tokens(http: httpx.Client, claims: dict[str, object]) -> None:
    problem(http.get("/v1/jobs", headers=signed(claims)), 401)


def test_access_tokens_expire(own_server: Callable[..., Server]) -> None:
    server = own_server(**LOGIN, FLUX_ACCESS_TOKEN_EXPIRES_MINUTES="0.04")
    token = server.http.post("/v1/login/access-token", data={"username": USER, "password": PASSWORD}).json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    assert server.http.get("/v1/jobs", headers=headers).status_code == 200
    eventually(lambda: server.http.get("/v1/jobs", headers=headers).status_code == 401, what="end of the token")
    client = get_client(host=server.url, user=USER, token=PASSWORD, secret_key=SECRET)
    client.set_bearer_auth(token["access_token"])  # an old one: the client logs in again
    assert client.list_nodes()["nodes"]
    client.session.close()


def test_without_a_shared_secret(own_server: Callable[..., Server]) -> None:
    server = own_server(FLUX_TOKEN=PASSWORD)
    refused = problem(server.http.post("/v1/token", headers=signed({"user": "fluxuser", "pass": PASSWORD})), 400)
    assert "FLUX_SECRET_KEY" in refused["detail"]
    assert server.http.get("/v1/jobs", auth=("fluxuser", PASSWORD)).status_code == 200


def test_failed_logins_are_limited(secured: Server, http: httpx.Client) -> None:
    """An address has twenty attempts, then one a second; beyond that the right password is refused too."""
    statuses = [http.get("/v1/jobs", auth=(USER, f"guess {n}")).status_code for n in range(30)]
    assert statuses[:20] == [401] * 20
    assert statuses.count(429) >= 8
    refused = http.get("/v1/jobs", auth=(USER, PASSWORD))
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) >= 1
    eventually(lambda: http.get("/v1/jobs", auth=(USER, PASSWORD)).status_code == 200, what="another attempt")
    assert [http.get("/v1/jobs", auth=(USER, PASSWORD)).status_code for _ in range(30)] == [200] * 30

    def logged() -> list[dict[str, Any]]:
        found = [event for event in audit(secured) if event["outcome"] == "refused"]
        return found if len(found) >= 10 else []  # the log is written with a delay, and its budget is limited

    refusals = eventually(logged, what="refusals in the audit log")
    assert len(refusals) <= 40
    assert not any("guess" in json.dumps(event) for event in refusals)


def test_failed_logins_behind_a_proxy(own_server: Callable[..., Server]) -> None:
    """Clients behind one proxy are limited separately, and a forged forwarded address does not bypass the limit."""
    server = own_server("--trusted-proxies", "127.0.0.0/8,10.0.0.0/8", "--log-format", "json", **LOGIN)

    def status(password: str, *hops: str) -> int:
        headers = {"X-Forwarded-For": ", ".join(hops)} if hops else {}
        return server.http.get("/v1/jobs", auth=(USER, password), headers=headers).status_code

    assert [status("x", f"8.8.8.{n}", "203.0.113.7", "10.1.1.1") for n in range(21)] == [401] * 20 + [429]
    assert status("x", "203.0.113.7:4711") == 429  # another port is the same client
    assert [status("x", f"2001:db8::{n}") for n in range(1, 22)] == [401] * 20 + [429]  # as is another address of a /64
    assert status(PASSWORD, "203.0.113.8") == 200
    assert status("x", "203.0.113.8") == 401
    assert status("x", "10.2.2.2", "10.1.1.1") == status("x") == status("x", "not an address") == 401
    addresses = {event["address"] for event in audit(server) if not event["address"].startswith("2001:db8::")}
    assert addresses == {"203.0.113.7", "203.0.113.8", "10.2.2.2", "127.0.0.1", "not an address"}


def test_forwarded_header_of_an_untrusted_proxy_is_ignored(secured: Server, http: httpx.Client) -> None:
    http.get("/v1/jobs", headers={"X-Forwarded-For": "203.0.113.7"})
    assert {event["address"] for event in audit(secured)} == {"127.0.0.1"}


# ------------------------------------------------------------------------------------------------------ browsers

PAGE = {"Accept": "text/html,application/xhtml+xml", "Sec-Fetch-Site": "none"}


def test_browser_logs_in_and_out(secured: Server, http: httpx.Client) -> None:
    first = http.get("/docs", headers=PAGE)
    assert first.status_code == 401
    assert first.headers["Content-Type"].startswith("text/html")
    assert 'role="alert"' not in first.text
    assert 'name="next" type="hidden" value="/docs"' in first.text
    assert "form-action 'self'" in first.headers["Content-Security-Policy"]
    origin = {"Origin": secured.url, "Sec-Fetch-Site": "same-origin"}
    form = {"user": USER, "password": PASSWORD, "next": "/docs"}
    wrong = http.post("/login", data={**form, "password": "<b>x"}, headers={**PAGE, **origin})
    assert wrong.status_code == 401
    assert 'role="alert"' in wrong.text
    assert "<b>x" not in wrong.text
    done = http.post("/login", data=form, headers={**PAGE, **origin})
    assert (done.status_code, done.headers["Location"]) == (303, "./docs")
    ((name, cookie),) = SimpleCookie(done.headers["Set-Cookie"]).items()
    assert name.startswith("__Host-")
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, True, "Strict", "/")
    assert not cookie["domain"]
    session = {"Cookie": f"{name}={cookie.value}"}
    assert http.get("/v1/whoami", headers=session).json()["name"] == USER
    page = http.get("/docs", headers={**PAGE, **session})
    assert page.status_code == 200
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Frame-Options"] == "DENY"
    submitted = http.post("/v1/jobs/submit", data={"command": "true"}, headers={**session, **origin})
    assert submitted.status_code == 200
    out = http.post("/logout", headers={**session, **origin})
    assert (out.status_code, out.headers["Location"]) == (303, "./login")
    problem(http.get("/v1/whoami", headers=session), 401)


@pytest.mark.parametrize("elsewhere", ["//evil.example", "/\\evil.example", "https://evil.example", "", "/a\nb"])
def test_login_redirects_only_to_local_pages(http: httpx.Client, elsewhere: str) -> None:
    done = http.post("/login", data={"user": USER, "password": PASSWORD, "next": elsewhere})
    assert (done.status_code, done.headers["Location"]) == (303, "./")


def test_revoked_token_ends_its_sessions(own_server: Callable[..., Server], tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, someone="read")
    server = own_server(*tokens.options)
    done = server.http.post("/login", data={"token": tokens.tokens["someone"]})
    session = {"Cookie": done.headers["Set-Cookie"].partition(";")[0]}
    assert server.http.get("/v1/jobs", headers=session).status_code == 200
    tokens.path.write_text("")
    eventually(lambda: server.http.get("/v1/jobs", headers=session).status_code == 401, what="end of the session")


# ----------------------------------------------------------------------------------------------- other origins


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_cross_origin_requests_change_nothing(server: Server, headers: dict[str, str]) -> None:
    """On loopback no credential is required, so only this check protects the shell from web pages."""
    refused = problem(server.http.post("/v1/jobs/submit", data={"command": "true"}, headers=headers), 403)
    assert "--allowed-origins" in refused["detail"]
    assert server.http.get("/v1/service", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:5000", "127.0.0.1.evil.example", "a..b", "x y", "", "evil", "evil:5000", "evil."],
)
def test_unknown_host_is_refused(server: Server, host: str) -> None:
    """DNS rebinding: a page's own name resolves to this address, and the browser takes both for the same origin."""
    for path in ("/v1/jobs", "/livez", "/nothing"):
        refused = problem(server.http.get(path, headers={"Host": host}), 421)
        assert "--allowed-hosts" in refused["detail"]


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:5000", "10.1.2.3:5000", "[::1]:5000", "[fd00::1]", "mc.ns.svc:5000", HOST_NAME,
             f"{HOST_NAME}:5000", "mc.ns.svc.cluster.local", "mc.ns.svc.cluster.local.", "a.localhost"]
)  # fmt: skip
def test_host_names_of_the_cluster(server: Server, host: str) -> None:
    assert server.http.get("/livez", headers={"Host": host}).status_code == 200


def test_host_names_without_a_dot(own_server: Callable[..., Server]) -> None:
    """A Service's name is known from the variables that Kubernetes sets; others must be configured."""
    service = {"FLUX_SIDECAR_SERVICE_HOST": "10.0.0.1", "MY_FLUX_SERVICE_HOST": "10.0.0.2"}
    server = own_server("--allowed-hosts", "gateway", **service)
    for host in ("flux-sidecar:5000", "my-flux", "gateway:80"):
        assert server.http.get("/v1/jobs", headers={"Host": host}).status_code == 200
    for host in ("other", "my", "gateways"):
        problem(server.http.get("/v1/jobs", headers={"Host": host}), 421)


def test_host_names_without_a_dot_with_credentials(own_server: Callable[..., Server]) -> None:
    server = own_server(FLUX_TOKEN=PASSWORD)
    assert server.http.get("/livez", headers={"Host": "mc-0:5000"}).status_code == 200
    problem(server.http.get("/v1/jobs", headers={"Host": "mc-0:5000"}), 401)
    problem(server.http.get("/livez", headers={"Host": "evil.example"}), 421)


def test_allowed_origins_cannot_use_the_session(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """For a browser such a page is of the same site, so it sends the session's cookie."""
    tokens = TokenFile(tmp_path, admin="admin")
    portal = "https://portal.example.org"
    server = own_server(*tokens.options, "--allowed-origins", portal, "--allowed-hosts", "flux.example.org")
    own_host = {"Host": "flux.example.org"}
    begun = server.http.post("/login", data={"token": tokens.tokens["admin"]}, headers=own_host)
    cookie = {"Cookie": begun.headers["Set-Cookie"].partition(";")[0], **own_host}
    job = {"command": "true"}
    own = {**cookie, "Origin": "https://flux.example.org", "Sec-Fetch-Site": "same-origin"}
    assert server.http.post("/v1/jobs/submit", json=job, headers=own).status_code == 200
    same_site = {**cookie, "Origin": portal, "Sec-Fetch-Site": "same-site"}
    assert server.http.post("/v1/jobs/submit", json=job, headers=same_site).status_code == 401
    assert server.http.get("/v1/jobs", headers=same_site).status_code == 401
    with_token = {**same_site, **tokens.headers("admin")}
    assert server.http.post("/v1/jobs/submit", json=job, headers=with_token).status_code == 200


def test_allowed_hosts_and_origins(own_server: Callable[..., Server]) -> None:
    portal = "https://portal.example.org"
    server = own_server(
        "--allowed-hosts", "flux.example.org, *.jobs.example.org", "--allowed-origins", portal, FLUX_TOKEN=PASSWORD
    )
    for host in ("flux.example.org", "FLUX.example.org:80", "a.jobs.example.org"):
        assert server.http.get("/livez", headers={"Host": host}).status_code == 200
    problem(server.http.get("/livez", headers={"Host": "jobs.example.org"}), 421)
    asked = server.http.options("/v1/jobs/submit", headers={"Origin": portal, "Access-Control-Request-Method": "POST"})
    assert asked.status_code == 204
    assert asked.headers["Access-Control-Allow-Origin"] == portal
    assert "Authorization" in asked.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in asked.headers
    answer = server.http.post(
        "/v1/jobs/submit", data={"command": "true"}, headers={"Origin": portal}, auth=("fluxuser", PASSWORD)
    )
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == portal
    other = server.http.options(
        "/v1/jobs/submit", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert problem(other, 403)
    assert "Access-Control-Allow-Origin" not in server.http.get("/livez", headers={"Origin": "https://x.org"}).headers
