"""The server's side of TLS, from files that are renewed while it runs."""

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
    """What the next connection is secured with.

    Args:
        certificate: file of the chain, as PEM.
        key: file of its private key.
        client_ca: file of whose client certificates are looked at; empty: nobody is asked for one.
        watch: tells when one of them is another one.

    Raises:
        SettingsError: one of the files cannot be used.
    """

    def __init__(self, certificate: str, key: str, client_ca: str, watch: FileWatcher) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        files = [file for file in (certificate, key, client_ca) if file]
        watch.add(self._renew, *map(Path, files))  # before they are read: what is swapped meanwhile is read again
        try:
            self.context = run_with_timeout(self._load, ", ".join(files))
        except (OSError, ssl.SSLError) as exc:
            names = ", ".join(files)
            raise SettingsError(f"--tls-cert, --tls-key: {names} cannot be used: {_words(exc)}.") from None

    def _load(self) -> ssl.SSLContext:
        """Read all files into a context of their own: what cannot be used as a whole changes nothing."""
        for file in filter(None, (self._certificate, self._key, self._client_ca)):
            read_small(Path(file))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # An error too when one is not the other's. OpenSSL would ask for the password of a key at the terminal.
        context.load_cert_chain(self._certificate, self._key, password=_no_password)
        if self._client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL  # who has none may have a token
            context.load_verify_locations(self._client_ca)
        return context

    def _renew(self) -> Callable[[], None]:
        try:
            context = self._load()
        except (OSError, ssl.SSLError) as exc:
            reason = _words(exc)
            return lambda: log.error("the new certificate is not used", file=self._certificate, reason=reason)
        return lambda: self._take(context)

    def _take(self, context: ssl.SSLContext) -> None:
        self.context = context
        log.info("certificate read", file=self._certificate)


def _no_password() -> str:
    raise OSError("the key has a password, and a server that starts by itself can be given none")


def _words(exc: OSError) -> str:
    """Say why files cannot be used; OpenSSL names none of them."""
    if not isinstance(exc, ssl.SSLError):
        return exc.strerror or str(exc)
    return f"{exc}: give PEM files, and the key of the certificate"
