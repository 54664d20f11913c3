"""The token file, read from the Secret that it is mounted from.

Kubelet writes a Secret that has changed into the volumes of pods after a minute or two. A token that was revoked must
not be good for so long, so the API server is asked as well, every few seconds. Where it cannot be asked, the file
counts, as without this.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable

import msgspec
import structlog

from sidecar.auth.tokens import TokenFile
from sidecar.cluster.client import ApiError, ApiServer
from sidecar.cluster.cluster import Rule

log = structlog.get_logger("auth")

RULE = Rule("", "secrets", "get")
"""What a Role has to allow, for this Secret alone."""

_KEY = "tokens"
_PERIOD = 3.0  # seconds
_LONGEST_PERIOD = 60.0  # where the API server refuses


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


class TokenSecret:
    """Keeps a :class:`TokenFile` at what the Secret says.

    Args:
        server: is asked.
        namespace: of the Secret; empty: the server's own.
        name: of the Secret, whose key ``tokens`` the file is mounted from.
        file: gets the tokens.
        changed: called when they are others.
    """

    def __init__(
        self, server: ApiServer, *, namespace: str, name: str, file: TokenFile, changed: Callable[[], None]
    ) -> None:
        self._server = server
        self._namespace = namespace
        self._name = name
        self._file = file
        self._changed = changed
        self._trouble = ""

    async def run(self) -> None:
        """Ask again and again; ends only when it is cancelled."""
        while True:
            period = await self.look()
            await asyncio.sleep(period)

    async def look(self) -> float:
        """Ask once; return after how many seconds to ask again."""
        try:
            namespace = self._namespace or self._server.account.read("namespace")
            raw = await self._server.ask("GET", f"/api/v1/namespaces/{namespace}/secrets/{self._name}")
            text = base64.b64decode(msgspec.json.decode(raw, type=_Secret).data.get(_KEY, ""), validate=True).decode()
        except ApiError as exc:
            if exc.status == 404:  # deleted: nothing that it held is good any more
                return self._take("")
            advice = f" Bind a Role to its service account with the rule {RULE}." if exc.status == 403 else ""
            return self._fail(f"{exc.detail}{advice}", refused=exc.status == 403)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, RecursionError) as exc:
            return self._fail(f"What {self._server.url} has answered is no Secret with a text: {exc}.", refused=False)
        return self._take(text)

    async def close(self) -> None:
        """Close the connections to the API server."""
        await self._server.close()

    def _take(self, text: str) -> float:
        self._trouble = ""
        if self._file.take(text, source=f"secret {self._name}"):
            self._changed()
        return _PERIOD

    def _fail(self, reason: str, *, refused: bool) -> float:
        self._file.release()
        if reason != self._trouble:
            self._trouble = reason
            log.warning("the Secret of the tokens cannot be read: a change of it is seen later", reason=reason)
        return _LONGEST_PERIOD if refused else _PERIOD
