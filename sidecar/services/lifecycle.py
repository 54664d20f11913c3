"""Run, drain, stop: who may submit, how the instance is ended, and when the server leaves.

``flux shutdown`` ends the instance with a code other than 0 while an initial program runs. So each way of having
been started has its own way to end with 0: an initial program just exits; beside a broker that has none
(``broker.rc2_none``) the server asks for shutdown, and follows it until the connection breaks.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Annotated, Literal

import structlog
from msgspec import Meta, Struct

from sidecar.config.values import SettingsError
from sidecar.domain.errors import Conflict, Problem, Unavailable
from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime import exit as leaving
from sidecar.runtime.tasks import CLOSE_TIMEOUT, Supervised, Supervisor
from sidecar.services.launchers import Launchers
from sidecar.services.pod import Pod

log = structlog.get_logger("lifecycle")

Mode = Literal["now", "drain"]
State = Literal["running", "waiting", "draining", "stopping", "stopped"]

_POLL = 0.2
_FINISH_RESPONSES = 0.2
_ABANDON = 5.0  # seconds: the end file may be on a file system that hangs
_LAST_GRACE = 1.0  # for launchers, when the broker has gone or told us to
_SIGNALLED_START = 15.0  # seconds that a stop by a signal waits for the instance to run
_SECOND_SIGNAL = 1.0  # seconds in which a shutdown that has not been asked for can still be
_SHUTDOWN_ASKED = 5.0  # seconds in which Flux has to take the request, where a signal has asked for the stop


class ServerFailed(Exception):
    """The server cannot go on, because of an error of its own."""


class Service(Struct, omit_defaults=False):
    """The state of the service and of a stop under way."""

    state: State
    mode: Mode | None
    reason: str
    deadline: Annotated[float | None, Meta(description="when a drain becomes `now`, in Unix seconds")]
    active_jobs: int
    held_jobs: Annotated[int, Meta(description="active jobs of urgency 0, which no drain ever sees end")]
    running_launchers: int
    waits_for: Annotated[
        str,
        Meta(
            description="what keeps the instance from running, such as a pod that cannot be scheduled; empty: nothing"
        ),
    ] = ""


class Lifecycle:
    """One server's life, from running to stopped.

    Args:
        instance: what is served.
        feed: tells how many jobs are active.
        launchers: ended before the instance.
        tasks: runs the stop.
        stop_on_signal: whether SIGTERM and SIGINT stop the instance too, not the server alone.
        start_timeout: how long a stop waits for the instance to run before it ends the broker by a signal, in seconds.
        place: where a stop is reported, and how a broker is ended that does not run yet.
    """

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        launchers: Launchers,
        tasks: Supervisor,
        *,
        stop_on_signal: bool,
        start_timeout: float,
        place: Pod,
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._launchers = launchers
        self._tasks = tasks
        self._stop_on_signal = stop_on_signal
        self._start_timeout = start_timeout
        self._place = place
        self._telling: Supervised | None = None
        self.state: State = "running"
        self.over = False
        """Whether the instance ends with the server, or before it: not so when the server alone was told to go."""
        self._mode: Mode | None = None
        self._reason = ""
        self._deadline: float | None = None
        self._drain_until: float | None = None
        self._started = asyncio.Event()
        self._shutdown_asked = asyncio.Event()
        self._now = asyncio.Event()
        self._leave = asyncio.Event()
        self._task: Supervised | None = None
        self._failure = ""
        self._signalled = False
        self._signal = asyncio.Event()
        self._hung_up = False
        self.deadline: leaving.Deadline | None = None
        """Bounds the whole end, from when this server begins to end what it runs."""

    # ------------------------------------------------------------------------------------------------- reading

    def service(self) -> Service:
        """Return what ``GET /v1/service`` shows of the life cycle."""
        return Service(
            state=self.state,
            mode=self._mode,
            reason=self._reason,
            deadline=self._deadline,
            active_jobs=self._feed.active_count,
            held_jobs=self._feed.held_count,
            running_launchers=self._launchers.running,
            waits_for=self._place.waits_for,
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
            if mode == "drain" and timeout is not None:  # what is shown is the clock's time; it may be set meanwhile
                self._deadline, self._drain_until = time.time() + timeout, time.monotonic() + timeout
            self.state = "draining" if mode == "drain" else "stopping"
            if not connected or self._instance.status.broker_state not in ("", "run"):
                self.state = "waiting"
            log.info("stop", mode=mode, by=by, timeout=timeout, force=force, reason=reason)
            text = f"{by} asked to stop the instance (mode {mode}){': ' if reason else ''}{reason}"
            self._telling = self._tasks.start(lambda: self._place.tell("Stopping", text), "event", on_death="note")
            self._task = self._tasks.start(lambda: self._stop(force), "stop", on_death="note")
        if mode == "now":
            self._mode = "now"
            self._now.set()

    async def _stop(self, force: bool) -> None:
        try:
            await self._started.wait()
            if await self._instance_runs():
                await self._stop_running(force)
            self.state = "stopped"
            self._end()
        except Problem as exc:
            log.error("the stop failed", reason=exc.detail, then="leave" if self._signalled else "go on")
            self._stop_failed(exc.detail)
        except Exception as exc:  # whatever it is, the next stop must be able to begin; the supervisor logs it
            self._stop_failed(f"The stop failed: {type(exc).__name__}: {exc}")
            raise

    async def _stop_running(self, force: bool) -> None:
        if self._instance.ending == "foreign" and not force:
            raise Conflict("another initial program runs in this instance")
        if not self._now.is_set():
            self.state = "draining"
            await self._drain()
        self.state, self._deadline = "stopping", None
        if self._instance.ending == "exit":
            self._begin_end()
            # At once: one --kill-timeout is for both.
            await asyncio.gather(self._launchers.close(), self._instance.end_jobs())
            await asyncio.sleep(_FINISH_RESPONSES)  # for the answer to the request
        else:
            await self._launchers.close()
            await self._shut_down()

    def _begin_end(self) -> None:
        if self.deadline:
            self.deadline.begin()

    def _stop_failed(self, reason: str) -> None:
        self.state, self._mode, self._reason, self._task = "running", None, reason, None
        self._deadline = self._drain_until = None
        self._now.clear()
        if self.deadline:
            self.deadline.done()
        if self._signalled:  # the instance cannot be stopped, but the server can
            self._leave.set()

    async def _instance_runs(self) -> bool:
        """Wait until the broker is in RUN: before that no shutdown can begin.

        Returns:
            False when it has not come to run in time, and was ended by a signal.
        """
        begin, known = time.monotonic(), ""
        while True:
            try:
                known = await self._instance.broker_state()
                if known == "run" and self._instance.status.connection != "connecting":
                    return True  # how it ends is known only when the connection is: an answer may come before that
            except Unavailable as exc:
                log.debug("waiting for the instance", reason=exc.detail)
            self.state = "waiting"
            if self._signalled and self._instance.status.connection == "connecting" and not self._instance.may_connect:
                return False  # there is no broker that could be stopped
            patience = min(self._start_timeout, _SIGNALLED_START) if self._signalled else self._start_timeout
            if time.monotonic() - begin > patience:
                await self._give_up_waiting(known, patience)
                return False
            await asyncio.sleep(_POLL)

    async def _give_up_waiting(self, known: str, waited: float) -> None:
        """End a broker that does not come to run: the other brokers are not there, and may never come.

        Raises:
            Problem: it is there, and cannot be ended.
        """
        then = "its broker is ended" if self._place.can_end_broker else "no broker was reached, and none is ended"
        text = f"The instance has not come to run within {waited:g} s (state {known or 'unknown'}); {then}."
        log.warning("the stop does not wait any longer", reason=text)
        self._telling = self._tasks.start(lambda: self._place.tell("StoppedBeforeRun", text), "event", on_death="note")
        try:
            async with asyncio.timeout(_ABANDON):
                failed = await self._place.abandon(text)
        except TimeoutError:
            raise Unavailable(f"The broker could not be ended within {_ABANDON:g} s.") from None
        if failed:
            self.fail(text)

    async def _drain(self) -> None:
        """Let launchers and jobs finish, until the deadline or until a stop `now`."""
        work = asyncio.create_task(self._finish_jobs())
        cut = asyncio.create_task(self._now.wait())
        left = None if self._drain_until is None else max(0.0, self._drain_until - time.monotonic())
        try:
            await asyncio.wait([work, cut], timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
            else:
                log.warning("the drain was cut short", active_jobs=self._feed.active_count)
        finally:
            for task in (work, cut):
                task.cancel()
            await asyncio.gather(work, cut, return_exceptions=True)

    async def _finish_jobs(self) -> None:
        """Launchers first: until they have ended, the jobs that they submit belong to the work."""
        await self._launchers.idle()
        await self._instance.refuse_submits("the instance is draining")
        await self._instance.wait_until_idle()  # and not by the store, which may be stuck
        await self._feed.wait_stored()

    async def _shut_down(self) -> None:
        try:
            async with asyncio.timeout(_SHUTDOWN_ASKED if self._signalled else None):
                await self._instance.shutdown()
        except TimeoutError:
            raise Unavailable(f"Flux has not taken the shutdown within {_SHUTDOWN_ASKED:g} s.") from None
        self._shutdown_asked.set()
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

    def take_signals(self) -> None:
        """Handle signals from now on, and first those that have arrived before."""
        leaving.handle_signals(asyncio.get_running_loop(), self._on_signal, self._exit)

    def _on_signal(self, number: signal.Signals) -> None:
        self._signal.set()
        if number == signal.SIGHUP:
            # The broker sends it to its initial program when it is shut down: what we exit with no longer counts. A
            # terminal that closes sends it too, and twice: beside a broker that lives the instance is not over.
            self._hung_up = True
            self.over = self.over or self._instance.ending == "exit"
            self._leave.set()
        else:
            self._on_stop_signal(number)

    def started(self) -> None:
        """Note that all parts of the server have been started: a stop can go on."""
        self._started.set()

    async def left(self) -> None:
        """Return when the server is to leave: stopped, signalled, or left by the broker."""
        gone = asyncio.create_task(self._instance.gone.wait())
        leave = asyncio.create_task(self._leave.wait())
        try:
            await asyncio.wait([gone, leave], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            leave.cancel()

    async def run(self) -> None:
        """Wait until the server is to leave, and prepare for it.

        Raises:
            SettingsError: the instance belongs to another user.
            ServerFailed: something has died without which the server cannot go on.
        """
        await self.left()
        gone = self._instance.gone.is_set()
        self.over = self.over or (gone and not self._instance.refusal)
        reached = self._instance.status.connection != "connecting" or self._place.can_end_broker
        log.info("leaving", instance="gone" if gone else self.state if reached else "not reached")
        self._begin_end()
        await asyncio.gather(self._end_work(), self._told())
        if self._failure:
            raise ServerFailed(self._failure)
        if self._instance.refusal:
            raise SettingsError(f"The instance cannot be served: {self._instance.refusal}.")

    async def _end_work(self) -> None:
        if self._task:
            await self._task.close()
        self.state = "stopped"
        await self._launchers.close(_LAST_GRACE)

    async def _told(self) -> None:
        """Give what is told of a stop a moment to be sent."""
        if self._telling:
            await asyncio.wait([self._telling.task], timeout=CLOSE_TIMEOUT)
            await self._telling.close()

    async def linger(self, seconds: float) -> None:
        """Stay after a stop, until a signal: kubelet must not take the server for one that has failed."""
        if self._task is None or self._signalled or not self.over:
            return
        # The handler stays the same one: a signal that has arrived, and that the loop has not come to yet, counts.
        self._signal.clear()
        try:
            await asyncio.wait_for(self._signal.wait(), seconds)
        except TimeoutError:
            log.info("no signal has come: the server leaves")

    def fail(self, cause: str) -> None:
        """Leave with a failure: the server cannot go on, and a new one may."""
        log.error("the server ends", cause=cause)
        self._failure = self._failure or cause
        self._leave.set()

    def _end(self) -> None:
        self.over = True
        self._leave.set()

    def _on_stop_signal(self, number: signal.Signals) -> None:
        log.info("signal", signal=number.name)
        if self._signalled or self._hung_up:
            self._end_at_once()
            return
        self._signalled = True
        if not self._started.is_set():  # a start that hangs must not hold up the end
            asyncio.get_running_loop().call_later(_SIGNALLED_START, self._leave_unless_started)
        again = self._task is not None and self._now.is_set()
        connection, ending = self._instance.status.connection, self._instance.ending
        # Before there is a connection it is not known whether there is another initial program.
        unknown = connection == "connecting" and ending != "exit" and self._instance.may_connect
        stoppable = unknown or (connection == "ready" and ending != "foreign" and self._started.is_set())
        if again or not stoppable or not self._stop_on_signal:
            self._leave.set()  # at once, and the instance goes on, unless it ends with its initial program
        else:
            self.stop("now", by=number.name, reason=f"signal {number.name}")

    def _leave_unless_started(self) -> None:
        if not self._started.is_set():
            self._leave.set()

    def _end_at_once(self) -> None:
        """End the process at a second signal, with nothing left of what it has started.

        A shutdown that was begun and has not been sent to Flux yet still is, if Flux takes it within a second.
        """
        unsent = self._task is not None and self._instance.ending == "shutdown" and not self._shutdown_asked.is_set()
        if not unsent or self._leave.is_set():
            self._exit()
            return
        log.warning("a second signal: the process ends when Flux has been asked to shut down", within=_SECOND_SIGNAL)
        asyncio.get_running_loop().call_later(_SECOND_SIGNAL, self._exit)
        asked = asyncio.ensure_future(self._shutdown_asked.wait())
        asked.add_done_callback(lambda _: self._exit())

    def _exit(self) -> None:
        try:
            log.warning("the process ends at once", state=self.state)
            self.kill()
        finally:
            leaving.end_now(0)

    def kill(self) -> None:
        """End at once what runs in this process's care, without waiting for it; in any thread."""
        try:
            self._instance.kill()
        finally:
            self._launchers.kill()
