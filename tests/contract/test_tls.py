"""TLS in the server: certificates that are renewed, and callers who show one."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from tests.harness import SIDECAR, Process, Server, embedded, eventually

Start = Callable[[Any], Any]


class Authority:
    """A certificate authority, and files of what it has issued."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def serve(self, name: str = "server") -> tuple[Path, Path]:
        """Issue a server's certificate; the files are replaced as a whole."""
        return self._write(name, self._authority.issue_cert("localhost", "127.0.0.1"))

    def client(self, common_name: str) -> tuple[Path, Path]:
        return self._write(common_name, self._authority.issue_cert("client.example", common_name=common_name))

    def _write(self, name: str, certificate: trustme.LeafCert) -> tuple[Path, Path]:
        files = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        for file, blobs in zip(files, (certificate.cert_chain_pems, [certificate.private_key_pem]), strict=True):
            new = file.with_suffix(file.suffix + ".new")
            new.write_bytes(b"".join(blob.bytes() for blob in blobs))
            new.replace(file)
        return files

    def context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.file))
        if client:
            context.load_cert_chain(*client)
        return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def options(files: tuple[Path, Path]) -> list[str]:
    return ["--tls-cert", str(files[0]), "--tls-key", str(files[1])]


@contextlib.contextmanager
def secured(server: Server, authority: Authority, client: tuple[Path, Path] | None = None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, verify=authority.context(client), timeout=30) as found:
        eventually(lambda: found.get("/readyz").status_code == 200)
        yield found


def serial(server: Server, authority: Authority) -> str:
    host, port = server.url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as raw,
        authority.context().wrap_socket(raw, server_hostname="localhost") as connection,
    ):
        return str((connection.getpeercert() or {})["serialNumber"])


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
def test_https_alone(tmp_path: Path, started: Start, authority: Authority) -> None:
    server = started(embedded(tmp_path, *options(authority.serve())))
    assert server.url.startswith("https://")
    with secured(server, authority) as client:
        assert client.post("/v1/jobs/submit", json={"command": "true"}).status_code == 200
    with httpx.Client() as plain, pytest.raises(httpx.TransportError):
        plain.get(server.url.replace("https", "http") + "/livez")
    with httpx.Client() as stranger, pytest.raises(httpx.ConnectError, match="certificate"):
        stranger.get(server.url + "/livez")
    context = authority.context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with httpx.Client(verify=context) as old, pytest.raises(httpx.TransportError):
        old.get(server.url + "/livez")


def test_a_renewed_certificate(tmp_path: Path, started: Start, authority: Authority) -> None:
    server = started(embedded(tmp_path, *options(authority.serve())))
    with secured(server, authority) as client:
        first = serial(server, authority)
        certificate, _ = authority.serve()
        eventually(lambda: serial(server, authority) != first, what="the new certificate")
        second = serial(server, authority)
        certificate.write_text("not a certificate")
        eventually(lambda: "the new certificate is not used" in server.text(), what="a word on the broken one")
        assert serial(server, authority) == second
        assert client.get("/livez").status_code == 200  # the old connection goes on


def test_client_certificates(tmp_path: Path, started: Start, authority: Authority) -> None:
    """Who shows one is known by it; who shows none may have a token."""
    server = started(
        embedded(
            tmp_path, *options(authority.serve()), "--tls-client-ca", str(authority.file),
            "--tls-client-scope", "submit", FLUX_TOKEN="a password",
        )
    )  # fmt: skip
    with secured(server, authority, authority.client("workflow-7")) as client:
        who = client.get("/v1/whoami").json()
        assert (who["name"], who["scopes"], who["method"]) == ("workflow-7", ["read", "submit"], "certificate")
        job = client.post("/v1/jobs/submit", json={"command": "true"}).json()["f58id"]
        assert client.get(f"/v1/jobs/{job}").json()["submitter"] == "workflow-7"
        assert client.post("/v1/service/stop").status_code == 403
    with secured(server, authority) as client:
        assert client.get("/v1/whoami").status_code == 401
        assert client.get("/v1/whoami", auth=("fluxuser", "a password")).json()["method"] == "login"
    other = tmp_path / "other"
    other.mkdir()
    foreign = Authority(other).client("workflow-7")
    with httpx.Client(verify=authority.context(foreign)) as client, pytest.raises(httpx.TransportError):
        client.get(server.url + "/v1/whoami")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tls-cert", "/nowhere"], "give both"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "cannot be used"),
        (["--tls-client-ca", "/nowhere"], "give --tls-cert"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, started: Start, arguments: list[str], text: str) -> None:
    server = started(Process([SIDECAR, "serve", "--embedded", "--port", "0", *arguments], tmp_path))
    assert server.wait() == 2
    assert text in " ".join(server.text().split())
    assert "Traceback" not in server.text()
