"""Run, drain, stop: who may submit, how the instance is ended, and when the server leaves.

``flux shutdown`` ends the instance with a code other than 0 while an initial program runs. So each way of having
been started has its own way to end with 0: an initial program just exits; beside a broker that has none
(``broker.rc2_none``) the server asks for shutdown, and follows it until the connection breaks.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Literal

import structlog
from msgspec import Meta, Struct

from sidecar.errors import Conflict, Problem, Unavailable
from sidecar.feed import Feed
from sidecar.instance import Instance
from sidecar.launchers import Launchers
from sidecar.options import SettingsError

log = structlog.get_logger("lifecycle")

Mode = Literal["now", "drain"]
State = Literal["running", "waiting", "draining", "stopping", "stopped"]

_POLL = 0.2
_FINISH_RESPONSES = 0.2
_LAST_GRACE = 1.0  # for launchers, when the broker has gone or told us to


class Service(Struct, omit_defaults=False):
    """The state of the service and of a stop under way."""

    state: State
    mode: Mode | None
    reason: str
    deadline: Annotated[float | None, Meta(description="when a drain becomes `now`, in Unix seconds")]
    active_jobs: int
    held_jobs: Annotated[int, Meta(description="active jobs of urgency 0, which no drain ever sees end")]
    running_launchers: int


class Lifecycle:
    """One server's life, from running to stopped.

    Args:
        instance: what is served.
        feed: tells how many jobs are active.
        launchers: ended before the instance.
        stop_on_signal: whether SIGTERM and SIGINT stop the instance too, not the server alone.
        tell: told the reason and the text when a stop begins; ends soon, and does not fail.
    """

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        launchers: Launchers,
        *,
        stop_on_signal: bool,
        tell: Callable[[str, str], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._launchers = launchers
        self._stop_on_signal = stop_on_signal
        self._tell = tell
        self._telling: asyncio.Task[None] | None = None
        self.state: State = "running"
        self.over = False
        """Whether the instance ends with the server, or before it: not so when the server alone was told to go."""
        self._mode: Mode | None = None
        self._reason = ""
        self._deadline: float | None = None
        self._now = asyncio.Event()
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told_to_go = False

    # ------------------------------------------------------------------------------------------------- reading

    def service(self) -> Service:
        """Return what ``GET /v1/service`` shows of the life cycle."""
        return Service(
            state=self.state,
            mode=self._mode,
            reason=self._reason,
            deadline=self._deadline,
            active_jobs=self._feed.active,
            held_jobs=self._feed.held(),
            running_launchers=self._launchers.running,
        )

    def require_running(self) -> None:
        """Let a submit through only while nobody has asked for a stop.

        Raises:
            Conflict: somebody has.
        """
        if self.state != "running":
            raise Conflict(f"No jobs are accepted: the service is {self.state}.")

    # ------------------------------------------------------------------------------------------------ stopping

    def stop(self, mode: Mode, *, by: str, timeout: float | None = None, force: bool = False, reason: str = "") -> None:
        """Begin to stop; a second call changes nothing, but ``now`` cuts a drain short.

        Args:
            mode: ``now``, or ``drain`` to let the jobs that there are finish.
            by: who asks.
            timeout: after how many seconds a drain becomes ``now``; None: never.
            force: shut down even where that makes ``flux start`` fail.
            reason: for the log and for who looks.

        Raises:
            Conflict: another initial program runs, and would be ended with a failure; see ``force``.
        """
        connected = self._instance.status.connection == "ready"
        if connected and self._instance.ending == "foreign" and not force:
            raise Conflict(
                "Another initial program runs in this instance: shutdown would end it, and flux start with exit "
                'code 129 (or 1). Let that program end by itself, or send "force": true.'
            )
        if self._task is None:
            self._mode, self._reason = mode, reason
            self._deadline = time.time() + timeout if mode == "drain" and timeout is not None else None
            self.state = "draining" if mode == "drain" else "stopping"
            if not connected or self._instance.status.broker_state not in ("", "run"):
                self.state = "waiting"
            log.info("stop", mode=mode, by=by, timeout=timeout, force=force, reason=reason)
            if self._tell:
                text = f"{by} asked to stop the instance (mode {mode}){': ' if reason else ''}{reason}"
                self._telling = asyncio.create_task(self._tell("Stopping", text), name="event")
            self._task = asyncio.create_task(self._stop(force), name="stop")
        if mode == "now":
            self._mode = "now"
            self._now.set()

    async def _stop(self, force: bool) -> None:
        try:
            await self._instance_runs()
            if self._instance.ending == "foreign" and not force:
                raise Conflict("another initial program runs in this instance")
            if not self._now.is_set():
                self.state = "draining"
                await self._drain()
            self.state, self._deadline = "stopping", None
            await self._launchers.close()
            if self._instance.ending == "exit":
                await asyncio.sleep(_FINISH_RESPONSES)  # whoever asked gets to read the answer
            else:
                await self._shut_down()
            self.state = "stopped"
            self._end()
        except Problem as exc:
            log.error("the stop failed; the service goes on", reason=exc.detail)
            self.state, self._mode, self._reason, self._task = "running", None, exc.detail, None
            self._now.clear()

    async def _instance_runs(self) -> None:
        """Wait until the broker is in RUN: before that no shutdown can begin."""
        while True:
            try:
                if await self._instance.broker_state() == "run":
                    return
            except Unavailable as exc:
                log.debug("waiting for the instance", reason=exc.detail)
            self.state = "waiting"
            await asyncio.sleep(_POLL)

    async def _drain(self) -> None:
        """Let launchers and jobs finish, until the deadline or until somebody says now."""
        work = asyncio.create_task(self._finish_jobs())
        cut = asyncio.create_task(self._now.wait())
        left = None if self._deadline is None else max(0.0, self._deadline - time.time())
        try:
            await asyncio.wait([work, cut], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                log.warning("the drain was cut short", active_jobs=self._feed.active)
        finally:
            for task in (work, cut):
                task.cancel()
            await asyncio.gather(work, cut, return_exceptions=True)

    async def _finish_jobs(self) -> None:
        """Launchers first: until they have ended, the jobs that they submit belong to the work."""
        await self._launchers.idle()
        await self._instance.refuse_submits("the instance is draining")
        await self._feed.idle()

    async def _shut_down(self) -> None:
        await self._instance.shutdown()
        gone = asyncio.create_task(self._instance.gone.wait())
        while not gone.done():
            await asyncio.wait([gone], timeout=_POLL)
            if self._instance.status.connection != "ready":
                break  # the job manager is unloaded, or the broker has gone already: it ends as it should
            try:
                await self._instance.broker_state()
            except Unavailable:
                break
        gone.cancel()

    # ------------------------------------------------------------------------------------------------- leaving

    async def run(self) -> None:
        """Return when the server is to leave: stopped, told to by a signal, or left by the broker.

        Raises:
            SettingsError: the instance is somebody else's.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)
        # The broker sends SIGHUP to its initial program when it is shut down: what we exit with no longer counts.
        loop.add_signal_handler(signal.SIGHUP, self._end)
        gone = asyncio.create_task(self._instance.gone.wait())
        leave = asyncio.create_task(self._leave.wait())
        await asyncio.wait([gone, leave], return_when=asyncio.FIRST_COMPLETED)
        self.over = self.over or (gone.done() and not self._instance.refusal)
        log.info("leaving", instance="gone" if gone.done() else self.state)
        for task in (gone, leave, self._task):
            if task:
                task.cancel()
        self.state = "stopped"
        await self._launchers.close(_LAST_GRACE)
        if self._telling:
            await self._telling
        if self._instance.refusal:
            raise SettingsError(f"The instance cannot be served: {self._instance.refusal}.")

    async def linger(self, seconds: float) -> None:
        """Stay after a stop, until told to go: nobody is to think that this server has failed."""
        if self._task is None or self._told_to_go or not self.over:
            return
        told = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
        try:
            await asyncio.wait_for(told.wait(), seconds)
        except TimeoutError:
            log.info("nobody has told this server to go: it leaves")

    def _end(self) -> None:
        self.over = True
        self._leave.set()

    def _on_stop_signal(self, number: signal.Signals) -> None:
        log.info("signal", signal=number.name)
        self._told_to_go = True
        again = self._task is not None and self._now.is_set()
        ready = self._instance.status.connection == "ready"
        if again or not ready or not self._stop_on_signal or self._instance.ending == "foreign":
            self._leave.set()  # at once, and the instance goes on
        else:
            self.stop("now", by=number.name, reason=f"signal {number.name}")
