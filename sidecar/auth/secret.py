"""The token file, read from the Secret that it is mounted from.

Kubelet writes a changed Secret into the volumes of pods within one or two minutes. A revoked token must not be valid
for so long, so the Secret is also read from the API server, every few seconds. While that fails the file is used.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable

import structlog

from sidecar.auth.tokens import TokenFile
from sidecar.cluster.client import ApiServer, malformed
from sidecar.cluster.core import CoreApi
from sidecar.cluster.errors import ApiError
from sidecar.cluster.rules import SECRET

log = structlog.get_logger("auth")

_KEY = "tokens"
_PERIOD = 3.0  # seconds
_LONG_PERIOD = 60.0  # while a Role is missing


class TokenSecret:
    """Update a :class:`TokenFile` from the Secret.

    Args:
        server: the API server.
        namespace: of the Secret; empty: the server's own.
        name: of the Secret; the file is mounted from its key ``tokens``.
        file: receives the tokens.
        changed: called when the tokens have changed.
    """

    def __init__(
        self, server: ApiServer, *, namespace: str, name: str, file: TokenFile, changed: Callable[[], None]
    ) -> None:
        self._server = server
        self._core = CoreApi(server.client)
        self._namespace = namespace
        self._name = name
        self._file = file
        self._changed = changed
        self._last_error = ""

    async def run(self) -> None:
        """Poll the Secret until cancelled."""
        while True:
            period = await self.poll()
            await asyncio.sleep(period)

    async def poll(self) -> float:
        """Read the Secret once; return the seconds until the next time."""
        try:
            tokens = await self._read()
        except ApiError as exc:
            if exc.status == 404:  # a deleted Secret revokes all tokens
                return self._take("")
            advice = f" Bind a Role to its service account with the rule {SECRET}." if exc.status == 403 else ""
            return self._fail(f"{exc.detail}{advice}", forbidden=exc.status == 403)
        except ValueError:  # neither base64 nor UTF-8; the error may quote a digest
            return self._fail(malformed(self._server.url, f"Secret with a text in {_KEY}"), forbidden=False)
        return self._take(tokens)

    async def close(self) -> None:
        """Close the connections to the API server."""
        await self._server.close()

    async def _read(self) -> str:
        namespace = self._namespace or self._server.account.read("namespace")
        secret = await self._core.read_namespaced_secret(self._name, namespace)
        return base64.b64decode((secret.data or {}).get(_KEY, ""), validate=True).decode()

    def _take(self, text: str) -> float:
        self._last_error = ""
        if self._file.take(text, source=f"secret {self._name}"):
            self._changed()
        return _PERIOD

    def _fail(self, reason: str, *, forbidden: bool) -> float:
        self._file.release()
        if reason != self._last_error:
            self._last_error = reason
            log.warning("the Secret of the tokens cannot be read; its changes take effect later", reason=reason)
        return _LONG_PERIOD if forbidden else _PERIOD
