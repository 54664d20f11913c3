"""What is around this server: the Job that its pod belongs to, and the broker where no request can end it.

A broker takes ``shutdown.start`` in RUN alone (src/broker/state_machine.c). Before that a signal ends it: sent by this
server where both are on one machine, and in a pod by what runs the broker, which reads the end file. Where that file
cannot be written, for a disk that is full or read-only, this server has the broker signal itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from sidecar.cluster.cluster import Cluster
from sidecar.cluster.outlook import Outlook, Verdict, write
from sidecar.config.kubernetes import KubernetesOptions
from sidecar.domain.errors import Problem
from sidecar.instance import Instance
from sidecar.runtime.tasks import Supervised, Supervisor

log = structlog.get_logger("place")

_FAILURE = 1
_WRITE = 2.0  # seconds: the file system may hang
_END_BROKER = 5.0  # seconds


class Pod:
    """What is around one server.

    Args:
        options: what this pod is to the cluster.
        cluster: the Job; None: there is none, or it cannot be asked.
        instance: whose broker is ended where it has to be.
    """

    def __init__(self, options: KubernetesOptions, cluster: Cluster | None, instance: Instance) -> None:
        self._options = options
        self._cluster = cluster
        self._instance = instance
        self._unwritten: Verdict | None = None
        self._outlook: Outlook | None = None

    @property
    def waits_for(self) -> str:
        """What keeps the instance from running, as Kubernetes tells it; empty where it runs, or that is not known."""
        return self._outlook.waits_for if self._outlook else ""

    def start(self, tasks: Supervisor) -> Supervised | None:
        """Begin to look whether the instance can still run; the server ends when it cannot."""
        if self._cluster is None or not self._options.end_file:
            return None
        self._outlook = Outlook(
            self._cluster, self._instance.broker_state, quorum=self._options.quorum, give_up=self._give_up
        )
        return tasks.start(self._outlook.run, "outlook", on_death="end")

    async def tell(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Leave an Event with the Job; ends soon, and does not fail."""
        if self._cluster:
            await self._cluster.tell(reason, message, warning=warning)

    @property
    def can_end_broker(self) -> bool:
        """Whether there is a broker that this server can end, or have ended by what reads the end file."""
        return bool(self._options.end_file) or self._instance.status.connection != "connecting"

    async def abandon(self, why: str) -> bool:
        """End a broker that has not come to run in time after a stop.

        Args:
            why: for the log of the broker's container.

        Returns:
            Whether that is a failure, which the server is to end with too.

        Raises:
            Problem: the broker is there, and cannot be ended from here.
        """
        if self._options.end_file:
            await self._give_up(Verdict(_FAILURE, why))
            return True
        if self.can_end_broker:
            await self._instance.end_broker()
        return False

    async def close(self) -> None:
        """Try once more to write the end file, if it could not be written: there may be room now."""
        if self._unwritten:
            await self._write(self._unwritten)

    async def _give_up(self, found: Verdict) -> None:
        """Have the broker ended, whatever stands in the way; the server ends after this."""
        if await self._write(found) or self._instance.status.connection == "connecting":
            return
        try:
            async with asyncio.timeout(_END_BROKER):
                await self._instance.end_broker()
        except (Problem, TimeoutError) as exc:
            log.error("the broker is not ended", reason=str(exc) or f"no answer within {_END_BROKER:g} s")

    async def _write(self, found: Verdict) -> bool:
        """Write the end file; return whether it is there."""
        path = Path(self._options.end_file)
        self._unwritten = found
        try:
            async with asyncio.timeout(_WRITE):
                await asyncio.to_thread(write, path, found)
        except OSError as exc:  # also the time-out
            log.error(
                "the end file cannot be written: see whether its disk is full or read-only",
                file=str(path), reason=str(exc) or f"no end within {_WRITE:g} s", verdict=found.reason,
            )  # fmt: skip
            return False
        self._unwritten = None
        return True
