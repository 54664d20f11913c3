"""TLS of the server, with certificates that are renewed while it runs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import structlog

from sidecar.config.values import SettingsError
from sidecar.runtime.files import read_small, run_with_timeout
from sidecar.runtime.filewatch import FileWatcher

log = structlog.get_logger("listen")


class Tls:
    """The TLS context of new connections.

    Args:
        certificate: file of the certificate chain (PEM).
        key: file of its private key.
        client_ca: file of the authorities of client certificates; empty: none are requested.
        watch: reports changes of these files.

    Raises:
        SettingsError: a file cannot be used.
    """

    def __init__(self, certificate: str, key: str, client_ca: str, watch: FileWatcher) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        files = [file for file in (certificate, key, client_ca) if file]
        watch.add(self._reload, *map(Path, files))  # before they are read: a later change is read again
        try:
            self.context = run_with_timeout(self._load, ", ".join(files))
        except (OSError, ssl.SSLError) as exc:
            names = ", ".join(files)
            raise SettingsError(f"--tls-cert, --tls-key: {names} cannot be used: {_reason(exc)}.") from None

    def _load(self) -> ssl.SSLContext:
        """Read all files into a new context, so that a fault in one of them leaves the current context unchanged."""
        for file in filter(None, (self._certificate, self._key, self._client_ca)):
            read_small(Path(file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Fails also if the key is not the certificate's. OpenSSL would ask for the key's password at the terminal.
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL  # clients without a certificate may have a token
            context.load_verify_locations(self._client_ca)
        return context

    def _reload(self) -> Callable[[], None]:
        try:
            context = self._load()
        except (OSError, ssl.SSLError) as exc:
            reason = _reason(exc)
            return lambda: log.error("the new certificate is not used", file=self._certificate, reason=reason)
        return lambda: self._use(context)

    def _use(self, context: ssl.SSLContext) -> None:
        self.context = context
        log.info("certificate read", file=self._certificate)


def _no_password() -> str:
    raise OSError("the key has a password, which a server that starts unattended cannot be given")


def _reason(exc: OSError) -> str:
    """Return why files cannot be used; OpenSSL names none of them."""
    if not isinstance(exc, ssl.SSLError):
        return exc.strerror or str(exc)
    return f"{exc}: give PEM files, and the key of the certificate"
