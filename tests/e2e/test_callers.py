"""A real API server authenticates callers, and its RBAC authorizes them: the examples, unchanged."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_errors import problem
from tests.e2e.kubernetes import api_client
from tests.support.harness import Process, Server, embedded, eventually

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples" / "rbac"


def kubectl(*arguments: str) -> str:
    done = subprocess.run(["kubectl", *arguments], text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def bearer(account: str, *options: str) -> dict[str, str]:
    token = kubectl("create", "token", account, "--namespace", "flux", *options).strip()
    return {"Authorization": f"Bearer {token}"}


OURS = ("--audience", "flux-sidecar")


@pytest.fixture
def server(tmp_path: Path, started: Callable[[Process], Any]) -> Iterator[Server]:
    kubectl("create", "namespace", "flux")
    for account in ("ci", "dashboard", "operator", "stranger"):
        kubectl("create", "serviceaccount", account, "--namespace", "flux")
    kubectl("apply", "-f", str(EXAMPLES))
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    api = api_client().configuration
    shutil.copy(api.ssl_ca_cert, credentials / "ca.crt")
    (credentials / "namespace").write_text("flux")
    (credentials / "token").write_text(kubectl("create", "token", "flux-sidecar", "--namespace", "flux"))
    options = ("--kubernetes-auth", "--kubernetes-api", api.host, "--kubernetes-credentials", str(credentials))
    yield started(embedded(tmp_path, *options)).ready()
    kubectl("delete", "-f", str(EXAMPLES), "--ignore-not-found")
    kubectl("delete", "namespace", "flux")


def test_callers_of_the_cluster(server: Server) -> None:
    expected = {"dashboard": ["read"], "ci": ["read", "submit"], "operator": ["read", "submit", "admin"]}
    for account, scopes in expected.items():
        whoami = server.http.get("/v1/whoami", headers=bearer(account, *OURS)).json()
        assert whoami["name"] == f"system:serviceaccount:flux:{account}"
        assert (whoami["scopes"], whoami["method"]) == (scopes, "kubernetes")
    refused = problem(server.http.get("/v1/jobs", headers=bearer("stranger", *OURS)), 403)
    assert "has none" in refused["detail"]
    problem(server.http.get("/v1/jobs", headers=bearer("ci")), 401)  # a token for the API server has another audience
    problem(server.http.get("/v1/jobs", headers={"Authorization": "Bearer nonsense"}), 401)
    mine = server.http.post("/v1/jobs/submit", headers=bearer("ci", *OURS), data={"command": "sleep 600"}).json()
    watcher = bearer("dashboard", *OURS)
    job = server.http.get(f"/v1/jobs/{mine['f58id']}", headers=watcher).json()
    assert job["submitter"] == "system:serviceaccount:flux:ci"
    problem(server.http.post(f"/v1/jobs/{mine['f58id']}/cancel", headers=watcher), 403)
    assert server.http.post(f"/v1/jobs/{mine['f58id']}/cancel", headers=bearer("ci", *OURS)).status_code == 200


def test_revoked_access_ends(server: Server) -> None:
    """An unbound role, and the token of a deleted account: refused once the cached result has expired."""
    caller, gone = bearer("dashboard", *OURS), bearer("ci", *OURS)
    assert server.http.get("/v1/jobs", headers=caller).status_code == 200
    assert server.http.get("/v1/jobs", headers=gone).status_code == 200
    begun = time.monotonic()
    kubectl("delete", "rolebinding", "flux-jobs-readers", "--namespace", "flux")
    kubectl("delete", "serviceaccount", "ci", "--namespace", "flux")
    for headers, status in ((caller, 403), (gone, 401)):
        eventually(lambda h=headers, s=status: server.http.get("/v1/jobs", headers=h).status_code == s, within=45)  # type: ignore[misc]
    assert time.monotonic() - begun < 60
