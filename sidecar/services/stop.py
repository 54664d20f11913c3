"""One stop of the instance: wait until it runs, drain it, and end it so that ``flux start`` exits with 0.

``flux shutdown`` ends the instance with another code while an initial program runs. So it depends on how the instance
was started: if the server is the initial program, it exits; beside a broker without one (``broker.rc2_none``) the
server requests the shutdown and follows it until the connection is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import structlog

from sidecar.domain.errors import Conflict, Unavailable
from sidecar.services.pod import Pod
from sidecar.services.workload import Workload

log = structlog.get_logger("lifecycle")

Mode = Literal["now", "drain"]
State = Literal["running", "waiting", "draining", "stopping", "stopped"]

SIGNALLED_START = 15.0
"""Seconds that a stop by a signal waits for the instance to run, and for the start of the server."""
_POLL = 0.2
_SEND_RESPONSES = 0.2
_ABANDON = 5.0  # seconds: the end file may be on a file system that hangs
_SEND_SHUTDOWN = 5.0  # seconds in which Flux must accept the shutdown when a signal requested the stop


class StopRequest(NamedTuple):
    """A request to stop the instance."""

    mode: Mode
    by: str
    """The caller, option or signal."""
    timeout: float | None = None
    """Seconds after which a drain becomes ``now``; None: never."""
    force: bool = False
    """Shut down even if that makes ``flux start`` fail."""
    reason: str = ""


class Stop:
    """A stop in progress.

    Args:
        request: the request.
        workload: the instance, jobs and launchers to end.
        pod: receives the Events, and ends a broker that does not run yet.
        start_timeout: how long to wait for the instance to run before its broker is ended, in seconds.
        on_end: called when the stop starts to end what the server runs.
    """

    def __init__(
        self, request: StopRequest, workload: Workload, pod: Pod, *, start_timeout: float, on_end: Callable[[], None]
    ) -> None:
        self._instance, self._feed, self._launchers = workload
        self._pod = pod
        self._start_timeout = start_timeout
        self._on_end = on_end
        self._force = request.force
        self.mode = request.mode
        self.reason = request.reason
        self.deadline: float | None = None
        """When the drain becomes ``now``, in Unix seconds."""
        self._drain_until: float | None = None  # the same on the monotonic clock: the wall clock may be set
        if request.mode == "drain" and request.timeout is not None:
            self.deadline = time.time() + request.timeout
            self._drain_until = time.monotonic() + request.timeout
        self.state: State = "draining" if request.mode == "drain" else "stopping"
        status = self._instance.status
        if status.connection != "ready" or status.broker_state not in ("", "run"):
            self.state = "waiting"
        self.signalled = False
        """Whether a signal requested the end too, which limits the time of each step."""
        self.failure = ""
        """Why the server must exit with a failure after the stop."""
        self.shutdown_sent = asyncio.get_running_loop().create_future()
        """Done when Flux has accepted the shutdown."""
        self._now = asyncio.Event()

    @property
    def is_now(self) -> bool:
        """Whether jobs are not waited for."""
        return self._now.is_set()

    def cut_short(self) -> None:
        """Stop ``now``: end a drain."""
        self.mode = "now"
        self._now.set()

    async def run(self) -> None:
        """Stop the instance.

        Raises:
            Conflict: another initial program runs, and the stop was not forced.
            Problem: the instance cannot be stopped.
        """
        if await self._wait_until_running():
            await self._end_instance()
        self.state = "stopped"

    async def _end_instance(self) -> None:
        if self._instance.ending == "foreign" and not self._force:
            raise Conflict("another initial program runs in this instance")
        if not self.is_now:
            self.state = "draining"
            await self._drain()
        self.state, self.deadline = "stopping", None
        if self._instance.ending == "exit":
            self._on_end()
            # Concurrently: --kill-timeout is the limit of both together.
            await asyncio.gather(self._launchers.close(), self._instance.end_jobs())
            await asyncio.sleep(_SEND_RESPONSES)  # among them the response to the stop request
        else:
            await self._launchers.close()
            await self._shut_down()

    # ---------------------------------------------------------------------------------------- wait for the instance

    async def _wait_until_running(self) -> bool:
        """Wait until the broker is in RUN: it accepts no shutdown before.

        Returns:
            False if it did not reach RUN in time and was ended, or if there is no broker to stop.
        """
        started, broker_state = time.monotonic(), ""
        while True:
            try:
                broker_state = await self._instance.broker_state()
                # The broker may respond before the connection is ready, and only then it is known how it ends.
                if broker_state == "run" and self._instance.status.connection != "connecting":
                    return True
            except Unavailable as exc:
                log.debug("waiting for the instance", reason=exc.detail)
            self.state = "waiting"
            if self.signalled and self._instance.status.connection == "connecting" and not self._instance.may_connect:
                return False
            timeout = min(self._start_timeout, SIGNALLED_START) if self.signalled else self._start_timeout
            if time.monotonic() - started > timeout:
                await self._abandon(broker_state, timeout)
                return False
            await asyncio.sleep(_POLL)

    async def _abandon(self, broker_state: str, waited: float) -> None:
        """End a broker that does not reach RUN: the other brokers are missing and may never join.

        Raises:
            Problem: the broker exists and cannot be ended.
        """
        then = "its broker is ended" if self._pod.can_end_broker else "no broker was reached, and none is ended"
        text = f"The instance has not come to run within {waited:g} s (state {broker_state or 'unknown'}); {then}."
        log.warning("the stop does not wait any longer", reason=text)
        self._pod.notify("StoppedBeforeRun", text)
        try:
            async with asyncio.timeout(_ABANDON):
                failed = await self._pod.abandon(text)
        except TimeoutError:
            raise Unavailable(f"The broker could not be ended within {_ABANDON:g} s.") from None
        if failed:
            self.failure = text

    # ------------------------------------------------------------------------------------------------------- drain

    async def _drain(self) -> None:
        """Let launchers and jobs finish, until the deadline or a stop ``now``."""
        finished = asyncio.create_task(self._finish_jobs())
        cut_short = asyncio.create_task(self._now.wait())
        timeout = None if self._drain_until is None else max(0.0, self._drain_until - time.monotonic())
        try:
            await asyncio.wait([finished, cut_short], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if finished.done():
                finished.result()
            else:
                log.warning("the drain was cut short", active_jobs=self._feed.active_count)
        finally:
            for task in (finished, cut_short):
                task.cancel()
            await asyncio.gather(finished, cut_short, return_exceptions=True)

    async def _finish_jobs(self) -> None:
        """Wait for launchers first: until they have ended, the jobs that they submit are part of the work."""
        await self._launchers.wait_idle()
        await self._instance.refuse_submits("the instance is draining")
        await self._instance.wait_until_idle()  # as reported by the instance: the store may be stuck
        await self._feed.barrier.wait_stored()

    # ---------------------------------------------------------------------------------------------------- shutdown

    async def _shut_down(self) -> None:
        try:
            async with asyncio.timeout(_SEND_SHUTDOWN if self.signalled else None):
                await self._instance.shutdown()
        except TimeoutError:
            raise Unavailable(f"Flux has not taken the shutdown within {_SEND_SHUTDOWN:g} s.") from None
        self.shutdown_sent.set_result(None)
        while not self._instance.gone.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL):
                    await self._instance.gone.wait()
            if self._instance.status.connection != "ready":
                return  # the job manager is unloaded, or the broker has gone: it ends as it should
            try:
                await self._instance.broker_state()
            except Unavailable:
                return
