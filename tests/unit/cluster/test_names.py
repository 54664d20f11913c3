"""Host names without a dot: names of the server, and names of others."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sidecar.auth import origins
from sidecar.cluster import names

HOST = socket.gethostname().lower()


def test_names_of_a_machine(tmp_path: Path) -> None:
    assert HOST in names.own_names(tmp_path / "nothing")


def test_names_of_a_pod(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n10.0.0.9 elsewhere.other-service.default.svc\n"
        f"10.0.0.5\t{HOST}.flux-service.default.svc.cluster.local\t{HOST}\n"
    )
    found = names.own_names(hosts)
    assert {HOST, "flux-service", f"{HOST}.flux-service.default.svc.cluster.local"} <= found
    assert not {"localhost", "other-service", "default", "elsewhere"} & found


def test_names_of_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_SIDECAR_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("OTHER_SERVICE_PORT", "80")
    known = origins._Names(frozenset({"mine"}), strict=True)
    let_in = {"flux-sidecar", "mine", "localhost", HOST}
    assert all(origins._host_known(known, name) for name in let_in)
    assert all(origins._host_known(known, f"{name.upper()}:5000") for name in let_in)
    assert not any(origins._host_known(known, name) for name in ("evil", "other", "flux", "flux-sidecar-2", ""))


def test_names_with_required_credentials() -> None:
    known = origins._Names(frozenset(), strict=False)
    assert origins._host_known(known, "mc-0")
    assert not origins._host_known(known, "evil.example")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "search lab.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\n",
            ("lab", "cluster.local"),
        ),
        ("nameserver 10.0.0.1\nsearch lab.svc.k8s.example. svc.k8s.example. k8s.example.\n", ("lab", "k8s.example")),
        ("search example.org corp.example.org\n", ("", "")),
        ("search a.svc.x svc.y y\n", ("", "")),
        ("search\n", ("", "")),
        ("", ("", "")),
    ],
)
def test_names_of_the_cluster(tmp_path: Path, text: str, found: tuple[str, str]) -> None:
    (tmp_path / "resolv.conf").write_text(text)
    assert names.resolver_domain(tmp_path / "resolv.conf") == found
    assert names.resolver_domain(tmp_path / "nothing") == ("", "")


@pytest.mark.parametrize("strict", [True, False])
def test_names_that_clients_use(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("FLUX_API_SERVICE_HOST", "10.96.0.2")
    monkeypatch.setattr(names, "resolver_domain", lambda: names.ResolverDomain("dev", "k8s.example"))
    known = origins._Names(frozenset({"*.lab.example"}), strict=strict)
    for name in (
        "lead-0.pod.flux-operator.kubernetes",
        "flux.svc.lab.kubernetes",
        "flux-api.dev.svc",
        "lead-0.flux-api.dev.svc.cluster.local",
        "10-244-0-7.dev.pod.cluster.local",
        "flux-api.dev.svc.k8s.example",
        "flux-api.dev",
        "host.docker.internal",
        "host.containers.internal",
        "flux.lab.example",
    ):
        for spelling in (name, f"{name}:5000", f"{name.upper()}.", f"{name}.:5000"):
            assert origins._host_known(known, spelling), spelling
    for name in (
        "evil.dev",
        "evil.example",
        "svc",
        "kubernetes.evil.example",
        "flux-api.com",
        "a.b.dev",
        ".kubernetes",
    ):
        assert (strict is False and "." not in name) or not origins._host_known(known, name), name
