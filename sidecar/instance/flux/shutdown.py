"""The steps that end a Flux instance."""

from __future__ import annotations

import asyncio
from typing import Any

import flux.constants
import structlog

from sidecar.domain.errors import Conflict, Unavailable
from sidecar.instance.flux.broker import STATE_TOPIC
from sidecar.instance.flux.client import FluxClient

log = structlog.get_logger("flux")

_RETRY = 0.5  # seconds
_LOG_LEVEL = 6  # LOG_INFO


class FluxShutdown:
    """Disables the queues, waits for the jobs, and ends the instance.

    Args:
        client: sends the requests.
    """

    def __init__(self, client: FluxClient) -> None:
        self._client = client

    async def refuse_submits(self, reason: str) -> None:
        """Disable every queue, which affects `flux submit` too."""
        try:
            await self._client.rpc("job-manager.queue-enable", {"enable": False, "reason": reason, "all": True})
        except OSError as exc:
            raise Conflict(f"The queues cannot be disabled: {exc.strerror}.") from None

    async def wait_until_idle(self) -> None:
        """Wait for the job manager's response that its last job has ended; repeat the request if it fails."""
        while True:
            try:
                await self._client.rpc_untimed("job-manager.drain", None, lambda rpc: rpc.get())
            except (OSError, Unavailable) as exc:
                log.debug("the request to the job manager is repeated", reason=str(exc))
                await asyncio.sleep(_RETRY)
            else:
                return

    async def shutdown(self) -> None:
        """Request a shutdown without its stream of log lines: a streaming client would delay the broker's end."""
        try:
            await self._client.rpc("shutdown.start", {"loglevel": _LOG_LEVEL})
        except OSError as exc:
            raise Conflict(f"Flux refuses to shut down: {exc.strerror}.") from None

    async def end_broker(self, pid: int) -> None:
        """Make the broker send SIGTERM to itself, by a command: it may run in another container."""
        self._client.status.require_ready()
        if not pid:
            raise Conflict("The broker's process ID is not known.")
        command: dict[str, Any] = {
            "cmdline": ["/bin/sh", "-c", f"kill -TERM {pid}"],
            "env": {},
            "opts": {},
            "channels": [],
        }
        try:
            await self._client.rpc("rexec.exec", {"cmd": command, "flags": 0}, flux.constants.FLUX_RPC_STREAMING)
        except OSError as exc:
            raise Conflict(f"Flux cannot run a command on rank 0: {exc.strerror}.") from None

    async def broker_state(self) -> str:
        """Return the state of the broker's state machine."""
        try:
            state = str((await self._client.rpc(STATE_TOPIC))["state"])
        except OSError as exc:
            raise Unavailable(f"The broker does not report its state: {exc.strerror}.") from None
        self._client.status.broker_state = state
        return state
