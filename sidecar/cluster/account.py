"""The pod's service account: the token, CA and namespace that kubelet mounts, and rotates."""

from __future__ import annotations

import re
import ssl
from pathlib import Path

from sidecar.cluster.errors import ApiError
from sidecar.runtime.files import FileThread, NotSmall, ReadTimeout, read_small

TOKEN = re.compile(r"[!-~]{1,16384}")
"""The form of a bearer token; no API server issues any other."""

_READ_TIMEOUT = 2.0  # seconds


class ServiceAccount:
    """The files of one service account, read anew for each request: Kubernetes rotates all of them.

    Args:
        directory: with the files ``token``, ``ca.crt`` and ``namespace``.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pem = ""
        self._ssl_context: ssl.SSLContext | None = None
        self._reads = FileThread[tuple[str, ssl.SSLContext]](directory, _READ_TIMEOUT)

    async def credentials(self) -> tuple[str, ssl.SSLContext]:
        """Return the current token and CA; a file system that does not respond delays only this request.

        Raises:
            ApiError: a file cannot be read, or is not valid.
        """
        try:
            return await self._reads.run(lambda: (self.token(), self.ssl_context()))
        except ReadTimeout as exc:
            raise ApiError(f"{exc}. The server's service account is mounted there.") from None

    def close(self) -> None:
        """End the thread that reads."""
        self._reads.close()

    def path(self, name: str) -> Path:
        """Return the path of one of the files."""
        return self._directory / name

    def read(self, name: str) -> str:
        """Return the text of one of the files.

        Raises:
            ApiError: it cannot be read, is empty, or is not ASCII text.
        """
        try:
            text = read_small(self.path(name)).decode("ascii").strip()
        except NotSmall as exc:
            raise self._unusable(name, exc.why) from None
        except OSError as exc:
            raise self._unusable(name, exc.strerror or type(exc).__name__) from None
        except UnicodeDecodeError:
            raise self._unusable(name, "not a text") from None
        if not text:
            raise self._unusable(name, "empty")
        return text

    def token(self) -> str:
        """Return the current token; raises as :meth:`read` does."""
        token = self.read("token")
        if not TOKEN.fullmatch(token):
            raise self._unusable("token", "not a token")
        return token

    def ssl_context(self) -> ssl.SSLContext:
        """Return a context that trusts the cluster's CA alone; the same object until the CA changes."""
        pem = self.read("ca.crt")
        if self._ssl_context is None or pem != self._pem:
            # Not create_default_context: from Python 3.13 on it refuses the CAs of many clusters, for they lack
            # extensions that RFC 5280 requires.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            try:
                context.load_verify_locations(cadata=pem)
            except (ssl.SSLError, ValueError):
                raise self._unusable("ca.crt", "not a certificate") from None
            self._ssl_context, self._pem = context, pem
        return self._ssl_context

    def _unusable(self, name: str, why: str) -> ApiError:
        return ApiError(
            f"{self.path(name)}: {why}. The service account is not mounted correctly: check serviceAccountName and "
            "automountServiceAccountToken of the server's pod."
        )
