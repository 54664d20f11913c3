"""Tokens of a Kubernetes cluster and of an OpenID Connect issuer, and all authentication methods together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.support.access import TokenFile, audit
from tests.support.harness import Server, eventually
from tests.support.issuer import Issuer
from tests.support.kubernetes_api import CLOSE, FAILING, HANG, KubernetesAPI
from tests.support.sse import Stream, ask

PASSWORD = "correct horse battery"


def bearer(token: str) -> dict[str, Any]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[KubernetesAPI]:
    with KubernetesAPI(tmp_path / "cluster") as api:
        api.allow("get", group="watchers")
        api.allow("create", user="alice", names=["science"])
        api.allow("update", user="ops")
        yield api


def _options(cluster: KubernetesAPI) -> list[str]:
    return [
        "--kubernetes-auth", "--kubernetes-api", cluster.url, "--minicluster", "science",
        "--kubernetes-credentials", str(cluster.credentials_directory), "--log-format", "json",
    ]  # fmt: skip


def test_cluster_tokens_and_rbac(own_server: Callable[..., Server], cluster: KubernetesAPI) -> None:
    server = own_server(*_options(cluster))
    expected = {"alice": ["read", "submit"], "ops": ["read", "submit", "admin"]}
    for user, scopes in expected.items():
        whoami = server.http.get("/v1/whoami", headers=bearer(cluster.issue(user))).json()
        assert (whoami["name"], whoami["scopes"], whoami["method"]) == (user, scopes, "kubernetes")
    watcher = bearer(cluster.issue("dashboard", groups=["watchers"]))
    assert server.http.get("/v1/jobs", headers=watcher).status_code == 200
    problem(server.http.post("/v1/jobs/submit", headers=watcher, data={"command": "true"}), 403)
    refused = problem(server.http.get("/v1/jobs", headers=bearer(cluster.issue("stranger"))), 403)
    assert "stranger has none" in refused["detail"]
    problem(server.http.get("/v1/jobs", headers=bearer(cluster.issue("alice", audiences=["api"]))), 401)
    problem(server.http.get("/v1/jobs", headers=bearer(cluster.issue("alice", expires=time.time() - 1))), 401)
    job = server.http.post("/v1/jobs/submit", headers=bearer(cluster.issue("alice")), data={"command": "true"}).json()
    assert server.http.get(f"/v1/jobs/{job['f58id']}", headers=watcher).json()["submitter"] == "alice"


def test_cluster_that_does_not_answer(own_server: Callable[..., Server], cluster: KubernetesAPI) -> None:
    """Unknown tokens get 503, cached ones stay valid for some time, and the server stays alive."""
    server = own_server(*_options(cluster))
    known = bearer(cluster.issue("alice"))
    assert server.http.get("/v1/jobs", headers=known).status_code == 200
    for how in (FAILING, CLOSE, HANG):
        cluster.fail(how)
        unknown = cluster.issue("alice")
        refused = problem(server.http.get("/v1/jobs", headers=bearer(unknown)), 503)
        assert refused["title"] == "Authentication backend unavailable"
        assert unknown not in server.text()
        assert server.http.get("/v1/jobs", headers=known).status_code == 200
        assert server.http.get("/livez").status_code == 200
        cluster.recover()
        assert server.http.get("/v1/jobs", headers=bearer(unknown)).status_code == 200
    cluster.reviewer_may.clear()
    refused = problem(server.http.get("/v1/jobs", headers=bearer(cluster.issue("alice"))), 503)
    assert "system:auth-delegator" in refused["detail"]


def test_issuer_tokens(own_server: Callable[..., Server]) -> None:
    with Issuer() as issuer:
        server = own_server(
            "--oidc-issuer", issuer.url, "--oidc-scope-claim", "groups", "--oidc-name-claim", "email",
            "--oidc-scopes", "hpc-users=submit,hpc-ops=admin",
        )  # fmt: skip
        token = issuer.token({"groups": ["hpc-users", "others"], "email": "alice@example.org"})
        whoami = server.http.get("/v1/whoami", headers=bearer(token)).json()
        assert (whoami["name"], whoami["scopes"], whoami["method"]) == ("alice@example.org", ["read", "submit"], "oidc")
        ops = issuer.token({"groups": ["hpc-ops"], "email": "ops@example.org"})
        issuer.trouble = "hangs"
        assert server.http.post("/v1/jobs/submit", headers=bearer(ops), data={"command": "true"}).status_code == 200
        assert server.http.get("/v1/jobs", headers=bearer(token)).status_code == 200
        problem(server.http.get("/v1/jobs", headers=bearer(issuer.token({"exp": 1}))), 401)


def test_unavailable_issuer(own_server: Callable[..., Server]) -> None:
    with Issuer() as issuer:
        issuer.trouble = "500"
        server = own_server("--oidc-issuer", issuer.url)
        token = issuer.token({"scope": "flux:read"})
        refused = problem(server.http.get("/v1/jobs", headers=bearer(token)), 503)
        assert refused["title"] == "Authentication backend unavailable"
        issuer.trouble = ""
        eventually(lambda: server.http.get("/v1/jobs", headers=bearer(token)).status_code == 200, what="the issuer")


def test_all_methods_together(own_server: Callable[..., Server], cluster: KubernetesAPI, tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path, bot="submit")
    with Issuer() as issuer:
        server = own_server(*_options(cluster), *tokens.options, "--oidc-issuer", issuer.url, FLUX_TOKEN=PASSWORD)
        ways: list[tuple[str, dict[str, Any]]] = [
            ("token", {"headers": tokens.headers("bot")}),
            ("login", {"auth": ("fluxuser", PASSWORD)}),
            ("oidc", {"headers": bearer(issuer.token({"scope": "openid flux:submit"}))}),
            ("kubernetes", {"headers": bearer(cluster.issue("alice"))}),
        ]
        for method, how in ways:
            assert server.http.get("/v1/whoami", **how).json()["method"] == method
        cluster.fail(FAILING)
        for _, how in ways[:3]:  # methods that do not need the cluster still work
            assert server.http.post("/v1/jobs/submit", data={"command": "true"}, **how).status_code == 200
        problem(server.http.get("/v1/jobs"), 401)
    assert {event["method"] for event in audit(server) if event["outcome"] == "done"} == {"token", "login", "oidc"}


def test_revoked_token_while_the_cluster_does_not_answer(
    own_server: Callable[..., Server], cluster: KubernetesAPI, tmp_path: Path
) -> None:
    """The tokens file alone decides, without a request to the cluster and without waiting for other streams."""
    tokens = TokenFile(tmp_path, bob="read", carol="admin", dave="read")
    server = own_server(*_options(cluster), *tokens.options)
    others = [bearer(cluster.issue("alice")) for _ in range(12)]
    with ExitStack() as stack:
        streams = {
            name: stack.enter_context(Stream(ask(server.url, "/v1/events", **headers)))
            for name, headers in (
                *((f"alice-{n}", headers) for n, headers in enumerate(others)),
                *((name, tokens.headers(name)) for name in ("bob", "carol", "dave")),
            )
        }
        cluster.fail(HANG)
        lines = tokens.path.read_text().splitlines(True)
        tokens.path.write_text("".join(lines[1:]).replace(":admin:", ":read:"))
        began = time.monotonic()
        for name in ("bob", "carol"):  # without a credential, and with too little scope
            *_, last = streams[name]
            assert (last.event, last.data["reason"]) == ("end", "unauthenticated")
        assert time.monotonic() - began < 10
        tokens.path.write_text("")
        *_, last = streams["dave"]  # it was accepted until now
        assert (last.event, last.data["reason"]) == ("end", "unauthenticated")
