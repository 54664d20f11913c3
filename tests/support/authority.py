"""A certificate authority for tests, and files with its certificates."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path

import trustme


class Authority:
    """A certificate authority, and files with its certificates."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        self.file = directory / "ca.pem"
        self._authority.cert_pem.write_to_path(self.file)

    def serve(self, name: str = "server") -> tuple[Path, Path]:
        """Issue a server's certificate; the files are replaced as a whole."""
        return self._write(name, self._authority.issue_cert("localhost", "127.0.0.1"))

    def client(self, common_name: str, until: datetime | None = None) -> tuple[Path, Path]:
        certificate = self._authority.issue_cert("client.example", common_name=common_name, not_after=until)
        return self._write(common_name, certificate)

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


def options(files: tuple[Path, Path]) -> list[str]:
    """Return the options of a server with such a certificate."""
    return ["--tls-cert", str(files[0]), "--tls-key", str(files[1])]
