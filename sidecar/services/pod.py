"""The pod of this server: Events of its Job, and the end of a broker that no RPC can end.

A broker accepts ``shutdown.start`` in RUN only (src/broker/state_machine.c). Before that, a signal ends it: sent by
this server if both run on one machine, and in a pod by the process that runs the broker, which reads the end file. If
that file cannot be written, because its disk is full or read-only, this server makes the broker signal itself.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sidecar.cluster import end_file
from sidecar.cluster.end_file import FAILURE, Verdict
from sidecar.config.kubernetes import KubernetesOptions
from sidecar.domain.errors import Problem
from sidecar.instance import Instance
from sidecar.runtime.tasks import CLOSE_TIMEOUT, Supervised, Supervisor

if TYPE_CHECKING:  # they load the Kubernetes client, which a server outside Kubernetes does not need
    from sidecar.cluster.cluster import Cluster
    from sidecar.cluster.outlook import Outlook

log = structlog.get_logger("pod")

_WRITE = 2.0  # seconds: the file system may hang
_END_BROKER = 5.0  # seconds


class Pod:
    """The pod of one server.

    Args:
        options: the options that describe the pod.
        cluster: the Job of the pod; None outside a cluster, or if the API server is not used.
        instance: the instance; its broker may have to be ended.
        tasks: runs what goes on in the background.
    """

    def __init__(
        self, options: KubernetesOptions, cluster: Cluster | None, instance: Instance, tasks: Supervisor
    ) -> None:
        self._options = options
        self._cluster = cluster
        self._instance = instance
        self._tasks = tasks
        self._unwritten: Verdict | None = None
        self._outlook: Outlook | None = None
        self._events: list[Supervised] = []

    @property
    def waits_for(self) -> str:
        """What keeps the instance from running, as reported by Kubernetes; empty if it runs, or if it is unknown."""
        return self._outlook.waits_for if self._outlook else ""

    def start(self) -> Supervised | None:
        """Start to check whether the instance can still run; the server ends when it cannot."""
        if self._cluster is None or not self._options.end_file:
            return None
        from sidecar.cluster.outlook import Outlook

        self._outlook = Outlook(
            self._cluster, self._instance.broker_state, quorum=self._options.quorum, give_up=self._give_up
        )
        return self._tasks.start(self._outlook.run, "outlook", on_death="end")

    async def close(self) -> None:
        """Retry to write the end file, if it could not be written: there may be space now."""
        if self._unwritten:
            await self._write(self._unwritten)

    # ----------------------------------------------------------------------------------------------------- Events

    def notify(self, reason: str, message: str) -> None:
        """Record an Event of the Job in the background; a failure is logged."""
        self._events = [event for event in self._events if not event.task.done()]
        self._events.append(self._tasks.start(lambda: self._record_event(reason, message), "event", on_death="note"))

    async def flush(self) -> None:
        """Wait a limited time until all Events are recorded."""
        if self._events:
            await asyncio.wait([event.task for event in self._events], timeout=CLOSE_TIMEOUT)
            await asyncio.gather(*(event.close() for event in self._events))

    async def _record_event(self, reason: str, message: str) -> None:
        if self._cluster:
            await self._cluster.record_event(reason, message)

    # ------------------------------------------------------------------------------------------------ end a broker

    @property
    def can_end_broker(self) -> bool:
        """Whether there is a broker that this server, or the process that reads the end file, can end."""
        return bool(self._options.end_file) or self._instance.status.connection != "connecting"

    async def abandon(self, reason: str) -> bool:
        """End a broker that did not reach RUN in time after a stop.

        Args:
            reason: for the log of the broker's container.

        Returns:
            Whether that is a failure, so that the server must exit with a failure too.

        Raises:
            Problem: the broker exists and cannot be ended by this server.
        """
        if self._options.end_file:
            await self._give_up(Verdict(FAILURE, reason))
            return True
        if self.can_end_broker:
            await self._instance.end_broker()
        return False

    async def _give_up(self, verdict: Verdict) -> None:
        """End the broker in the way that works; the server ends after this."""
        if await self._write(verdict) or self._instance.status.connection == "connecting":
            return
        try:
            async with asyncio.timeout(_END_BROKER):
                await self._instance.end_broker()
        except (Problem, TimeoutError) as exc:
            log.error("the broker is not ended", reason=str(exc) or f"no answer within {_END_BROKER:g} s")

    async def _write(self, verdict: Verdict) -> bool:
        """Write the end file; return whether it was written."""
        path = Path(self._options.end_file)
        self._unwritten = verdict
        try:
            async with asyncio.timeout(_WRITE):
                await asyncio.to_thread(end_file.write, path, verdict)
        except OSError as exc:  # also TimeoutError
            log.error(
                "the end file cannot be written: see whether its disk is full or read-only",
                file=str(path), reason=str(exc) or f"no end within {_WRITE:g} s", verdict=verdict.reason,
            )  # fmt: skip
            return False
        self._unwritten = None
        return True
