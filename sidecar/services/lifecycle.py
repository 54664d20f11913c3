"""The lifecycle of a server: it runs, its instance is stopped on request, and it leaves.

To leave is to end the process in order: after a stop, at a signal, when the instance has gone, or after a failure. The
steps of a stop are in :mod:`sidecar.services.stop`, and signals in :mod:`sidecar.services.signals`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

import structlog
from msgspec import Meta, Struct

from sidecar.config.values import SettingsError
from sidecar.domain.errors import Conflict, Problem
from sidecar.runtime.tasks import Supervised, Supervisor
from sidecar.runtime.termination import Deadline
from sidecar.services.pod import Pod
from sidecar.services.stop import Mode, State, Stop, StopRequest
from sidecar.services.workload import Workload

log = structlog.get_logger("lifecycle")

_LAST_GRACE = 1.0  # seconds from SIGTERM to SIGKILL for launchers when the server leaves


class ServerFailed(Exception):
    """The server cannot go on because of a failure of its own."""


class Service(Struct, omit_defaults=False):
    """The state of the service and of a stop in progress."""

    state: Annotated[
        State,
        Meta(
            description="running: no stop was requested; waiting: a stop waits until the instance runs; draining: it "
            "waits for jobs; stopping: the instance is shut down; stopped: the stop has completed"
        ),
    ]
    mode: Annotated[Mode | None, Meta(description="mode of the stop; null without a stop")]
    reason: Annotated[str, Meta(description="reason of the stop, or why the last stop failed; empty without one")]
    deadline: Annotated[float | None, Meta(description="when a drain becomes `now`, in Unix seconds")]
    active_jobs: Annotated[int, Meta(description="jobs that have not ended")]
    held_jobs: Annotated[int, Meta(description="active jobs of urgency 0, which no drain ever sees end")]
    running_launchers: Annotated[int, Meta(description="launchers that have not ended")]
    waits_for: Annotated[
        str,
        Meta(
            description="what keeps the instance from running, such as a pod that cannot be scheduled; empty: nothing"
        ),
    ] = ""


class Lifecycle:
    """The lifecycle of one server.

    Args:
        workload: the instance with its jobs and launchers.
        pod: receives the Events, and ends a broker that does not run yet.
        tasks: runs the stop.
        deadline: limits the duration of the shutdown, from when the server starts to end its jobs and launchers.
        start_timeout: how long a stop waits for the instance to run before its broker is ended, in seconds.
    """

    def __init__(
        self, workload: Workload, pod: Pod, tasks: Supervisor, deadline: Deadline, *, start_timeout: float
    ) -> None:
        self._workload = workload
        self._instance, self._feed, self._launchers = workload
        self._pod = pod
        self._tasks = tasks
        self._deadline = deadline
        self._start_timeout = start_timeout
        self._started = asyncio.Event()
        self._leave = asyncio.Event()
        self._left = False
        self._stop: Stop | None = None
        self._stop_task: Supervised | None = None
        self._stop_error = ""
        self._failure = ""
        self._signalled = False
        self.instance_ended = False
        """Whether the instance ends before or with the server; false when only the server was asked to leave."""

    # ------------------------------------------------------------------------------------------------------ state

    @property
    def state(self) -> State:
        """The state of the service."""
        if self._left:
            return "stopped"
        return self._stop.state if self._stop else "running"

    @property
    def current_stop(self) -> Stop | None:
        """The stop in progress, or the one that has ended the instance."""
        return self._stop

    @property
    def is_started(self) -> bool:
        """Whether all parts of the server have been started."""
        return self._started.is_set()

    @property
    def is_leaving(self) -> bool:
        """Whether the server is leaving."""
        return self._leave.is_set()

    @property
    def signalled(self) -> bool:
        """Whether a signal has requested the end."""
        return self._signalled

    @signalled.setter
    def signalled(self, value: bool) -> None:
        self._signalled = value
        if self._stop:
            self._stop.signalled = value

    def service(self) -> Service:
        """Return the part of ``GET /v1/service`` that is about the lifecycle."""
        stop = self._stop
        return Service(
            state=self.state,
            mode=stop.mode if stop else None,
            reason=stop.reason if stop else self._stop_error,
            deadline=stop.deadline if stop else None,
            active_jobs=self._feed.active_count,
            held_jobs=self._feed.held_count,
            running_launchers=self._launchers.running,
            waits_for=self._pod.waits_for,
        )

    def require_running(self) -> None:
        """Check that jobs may be submitted.

        Raises:
            Conflict: A stop has been requested.
        """
        if self.state != "running":
            raise Conflict(f"No jobs are accepted: the service is {self.state}.")

    # ------------------------------------------------------------------------------------------------------- stop

    def stop(self, mode: Mode, *, by: str, timeout: float | None = None, force: bool = False, reason: str = "") -> None:
        """Start to stop the instance. While a stop is in progress, only ``now`` has an effect: it cuts a drain short.

        Args:
            mode: ``now``, or ``drain`` to let the active jobs finish first.
            by: the caller, option or signal that requests it.
            timeout: seconds after which a drain becomes ``now``; None: never.
            force: shut down even if that makes ``flux start`` fail.
            reason: for the log and ``GET /v1/service``.

        Raises:
            Conflict: another initial program runs and would be ended with a failure; see ``force``.
        """
        if self._instance.status.connection == "ready" and self._instance.ending == "foreign" and not force:
            raise Conflict(
                "Another initial program runs in this instance: shutdown would end it, and flux start with exit "
                'code 129 (or 1). Let that program end by itself, or send "force": true.'
            )
        if self._stop is None:
            self._start_stop(StopRequest(mode, by, timeout, force, reason))
        if self._stop and mode == "now":
            self._stop.cut_short()

    def _start_stop(self, request: StopRequest) -> None:
        stop = self._stop = Stop(
            request, self._workload, self._pod, start_timeout=self._start_timeout, on_end=self._deadline.begin
        )
        stop.signalled = self._signalled
        log.info("stop", **request._asdict())
        reason = f": {request.reason}" if request.reason else ""
        self._pod.notify("Stopping", f"{request.by} asked to stop the instance (mode {request.mode}){reason}")
        self._stop_task = self._tasks.start(lambda: self._run_stop(stop), "stop", on_death="note")

    async def _run_stop(self, stop: Stop) -> None:
        try:
            await self._started.wait()
            await stop.run()
        except Problem as exc:
            log.error("the stop failed", reason=exc.detail, then="leave" if self._signalled else "go on")
            self._stop_failed(exc.detail)
        except Exception as exc:  # after any error another stop must be able to start; the supervisor logs it
            self._stop_failed(f"The stop failed: {type(exc).__name__}: {exc}")
            raise
        else:
            if stop.failure:
                self.fail(stop.failure)
            self.instance_ended = True
            self.leave()

    def _stop_failed(self, reason: str) -> None:
        self._stop, self._stop_error = None, reason
        self._deadline.done()
        if self._signalled:  # the instance cannot be stopped, but the server can leave
            self.leave()

    # ------------------------------------------------------------------------------------------------------ leave

    def started(self) -> None:
        """Record that all parts of the server have been started: a stop can go on."""
        self._started.set()

    def leave(self) -> None:
        """Request the orderly exit of the server; the instance is not stopped."""
        self._leave.set()

    def fail(self, cause: str) -> None:
        """Request the exit of the server with a failure: it cannot continue, and a new process may."""
        log.error("the server ends", cause=cause)
        self._failure = self._failure or cause
        self.leave()

    async def wait_until_leaving(self) -> None:
        """Wait until the server is to leave, or the instance has gone."""
        gone = asyncio.create_task(self._instance.gone.wait())
        leave = asyncio.create_task(self._leave.wait())
        try:
            await asyncio.wait([gone, leave], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            leave.cancel()

    async def run(self) -> None:
        """Wait until the server is to leave, then cancel the task of the stop and end the launchers.

        Raises:
            SettingsError: the instance belongs to another user.
            ServerFailed: A part failed without which the server cannot go on.
        """
        await self.wait_until_leaving()
        gone = self._instance.gone.is_set()
        self.instance_ended = self.instance_ended or (gone and not self._instance.refusal)
        reached = self._instance.status.connection != "connecting" or self._pod.can_end_broker
        log.info("leaving", instance="gone" if gone else self.state if reached else "not reached")
        self._deadline.begin()
        await asyncio.gather(self._end_work(), self._pod.flush())
        if self._failure:
            raise ServerFailed(self._failure)
        if self._instance.refusal:
            raise SettingsError(f"The instance cannot be served: {self._instance.refusal}.")

    async def _end_work(self) -> None:
        if self._stop_task:
            await self._stop_task.close()
        self._left = True
        await self._launchers.close(_LAST_GRACE)

    def kill(self) -> None:
        """Kill jobs of the embedded engine and launchers without waiting for them; may be called in any thread."""
        try:
            self._instance.kill()
        finally:
            self._launchers.kill()
