"""TLS in the server: renewal of certificates, and client certificates."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.authority import Authority, options
from tests.support.harness import SIDECAR, Process, Server, embedded, eventually

Start = Callable[[Any], Any]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextlib.contextmanager
def secured(server: Server, authority: Authority, client: tuple[Path, Path] | None = None) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, verify=authority.context(client), timeout=60) as found:
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
def test_https_only(tmp_path: Path, started: Start, authority: Authority) -> None:
    server = started(embedded(tmp_path, *options(authority.serve())))
    assert server.url.startswith("https://")
    with secured(server, authority) as client:
        assert client.post("/v1/jobs/submit", json={"command": "true"}).status_code == 200
    with httpx.Client() as plain:
        assert plain.get(server.url.replace("https", "http") + "/livez").status_code == 400
    with httpx.Client() as stranger, pytest.raises(httpx.ConnectError, match="certificate"):
        stranger.get(server.url + "/livez")
    context = authority.context()
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with httpx.Client(verify=context) as old, pytest.raises(httpx.TransportError):
        old.get(server.url + "/livez")


def test_renewed_certificate(tmp_path: Path, started: Start, authority: Authority) -> None:
    server = started(embedded(tmp_path, *options(authority.serve())))
    with secured(server, authority) as client:
        first = serial(server, authority)
        certificate, _ = authority.serve()
        eventually(lambda: serial(server, authority) != first, what="the new certificate")
        second = serial(server, authority)
        certificate.write_text("not a certificate")
        eventually(
            lambda: "the new certificate is not used" in server.text(), what="the log line about the invalid one"
        )
        assert serial(server, authority) == second
        assert client.get("/livez").status_code == 200  # the old connection stays open


def test_client_certificates(tmp_path: Path, started: Start, authority: Authority) -> None:
    """A client with a certificate is identified by it; one without can use a token."""
    server = started(
        embedded(
            tmp_path, *options(authority.serve()), "--tls-client-ca", str(authority.file),
            "--tls-client-scope", "submit", FLUX_TOKEN="a password",
        )
    )  # fmt: skip
    with secured(server, authority, authority.client("workflow-7")) as client:
        whoami = client.get("/v1/whoami").json()
        assert (whoami["name"], whoami["scopes"], whoami["method"]) == ("workflow-7", ["read", "submit"], "certificate")
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


def test_renewal_is_atomic(tmp_path: Path, started: Start, authority: Authority) -> None:
    """A certificate with another one's key, or with an authority that cannot be read, is not used."""
    certificate, key = authority.serve()
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.file.read_bytes())
    server = started(embedded(tmp_path, *options((certificate, key)), "--tls-client-ca", str(clients)))
    with secured(server, authority):
        first = serial(server, authority)
        mine = key.read_bytes()
        authority.serve()
        key.write_bytes(mine)  # in the middle of a replacement: the certificate is new, its key is not
        eventually(lambda: "KEY_VALUES_MISMATCH" in server.text(), what="the log line about the pair")
        assert serial(server, authority) == first
        clients.write_text("no authority")
        authority.serve()
        eventually(lambda: "NO_CERTIFICATE_OR_CRL_FOUND" in server.text(), what="the log line about the authority")
        assert serial(server, authority) == first
        clients.write_bytes(authority.file.read_bytes())
        eventually(lambda: serial(server, authority) != first, what="the new certificate")


def test_removed_authority(tmp_path: Path, started: Start, authority: Authority) -> None:
    """New connections with its certificates are not authenticated, without a restart."""
    clients = tmp_path / "clients.pem"
    clients.write_bytes(authority.file.read_bytes())
    (tmp_path / "other").mkdir()
    server = started(embedded(tmp_path, *options(authority.serve()), "--tls-client-ca", str(clients)))
    mine = authority.client("workflow-7")
    with secured(server, authority, mine) as client:
        assert client.get("/v1/whoami").status_code == 200
    clients.write_bytes(Authority(tmp_path / "other").file.read_bytes())

    def refused() -> bool:
        try:
            httpx.get(server.url + "/v1/whoami", verify=authority.context(mine))
        except httpx.TransportError:
            return True
        return False

    eventually(refused, what="the end of the old authority")


def test_expired_client_certificate(tmp_path: Path, started: Start, authority: Authority) -> None:
    """The certificate is checked at the start of a connection, and its expiry during the connection."""
    server = started(embedded(tmp_path, *options(authority.serve()), "--tls-client-ca", str(authority.file)))
    with secured(server, authority) as client:
        assert client.get("/v1/whoami").status_code == 401
    until = (datetime.now(UTC) + timedelta(seconds=5)).replace(microsecond=0)
    with secured(server, authority, authority.client("workflow-7", until)) as client:
        assert client.get("/v1/whoami").json()["expires"] == until.timestamp()
        eventually(lambda: client.get("/v1/whoami").status_code == 401, what="the end of the certificate")
        assert datetime.now(UTC) >= until
        assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--tls-cert", "/nowhere"], "give both"),
        (["--tls-cert", "/nowhere", "--tls-key", "/nowhere"], "cannot be used"),
        (["--tls-client-ca", "/nowhere"], "give --tls-cert"),
    ],
)
def test_unusable_files(tmp_path: Path, started: Start, arguments: list[str], text: str) -> None:
    server = started(Process([SIDECAR, "serve", "--embedded", "--port", "0", *arguments], tmp_path))
    assert server.wait() == 2
    assert text in " ".join(server.text().split())
    assert "Traceback" not in server.text()
