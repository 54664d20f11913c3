"""Signals: SIGTERM and similar ones stop the instance, or only end the server; a second one ends the process."""

from __future__ import annotations

import asyncio
import signal

import structlog

from sidecar.instance import Instance
from sidecar.runtime import termination
from sidecar.services.lifecycle import Lifecycle
from sidecar.services.stop import SIGNALLED_START

log = structlog.get_logger("lifecycle")

_SECOND_SIGNAL = 1.0  # seconds in which a shutdown that was not sent yet may still be sent


class Signals:
    """Act on the signals of one server.

    Args:
        lifecycle: the lifecycle.
        instance: the instance.
        stop_on_signal: whether SIGTERM and SIGINT stop the instance too, not only the server.
    """

    def __init__(self, lifecycle: Lifecycle, instance: Instance, *, stop_on_signal: bool) -> None:
        self._lifecycle = lifecycle
        self._instance = instance
        self._stop_on_signal = stop_on_signal
        self._received = asyncio.Event()
        self._hung_up = False

    def install(self) -> None:
        """Handle signals from now on; first those that were received earlier."""
        termination.handle_signals(asyncio.get_running_loop(), self.receive, self._exit)

    def receive(self, number: signal.Signals) -> None:
        """Act on a signal."""
        self._received.set()
        if number == signal.SIGHUP:
            # A broker that shuts down sends it to its initial program, and then ignores the exit code of the server.
            # A closing terminal sends it too, twice; a broker beside the server lives on, and so does its instance.
            self._hung_up = True
            self._lifecycle.instance_ended |= self._instance.ending == "exit"
            self._lifecycle.leave()
        else:
            log.info("signal", signal=number.name)
            if self._lifecycle.signalled or self._hung_up:
                self._end_process()
            else:
                self._stop(number)

    async def linger(self, seconds: float) -> None:
        """Wait for a signal after a stop: a container that exits by itself counts as failed for the kubelet."""
        lifecycle = self._lifecycle
        if lifecycle.current_stop is None or lifecycle.signalled or not lifecycle.instance_ended:
            return
        # The handler is not replaced: a signal that the event loop has not processed yet counts.
        self._received.clear()
        try:
            await asyncio.wait_for(self._received.wait(), seconds)
        except TimeoutError:
            log.info("no signal has come: the server leaves")

    def _stop(self, number: signal.Signals) -> None:
        lifecycle = self._lifecycle
        lifecycle.signalled = True
        if not lifecycle.is_started:  # a start that hangs must not delay the end
            asyncio.get_running_loop().call_later(SIGNALLED_START, self._leave_unless_started)
        if self._stop_on_signal and self._can_stop_instance():
            lifecycle.stop("now", by=number.name, reason=f"signal {number.name}")
        else:
            lifecycle.leave()  # the instance continues, unless the server is its initial program

    def _can_stop_instance(self) -> bool:
        if (stop := self._lifecycle.current_stop) and stop.is_now:
            return False
        connection, ending = self._instance.status.connection, self._instance.ending
        if connection == "connecting":  # whether another initial program runs is not known yet
            return ending != "exit" and self._instance.may_connect
        return connection == "ready" and ending != "foreign" and self._lifecycle.is_started

    def _leave_unless_started(self) -> None:
        if not self._lifecycle.is_started:
            self._lifecycle.leave()

    def _end_process(self) -> None:
        """End the process and all that it has started, without waiting.

        A shutdown that was requested and not sent to Flux yet is still sent, if Flux accepts it within a second.
        """
        stop = self._lifecycle.current_stop
        sent = stop is None or self._instance.ending != "shutdown" or stop.shutdown_sent.done()
        if stop is None or sent or self._lifecycle.is_leaving:
            self._exit()
            return
        log.warning("a second signal: the process ends when Flux has been asked to shut down", within=_SECOND_SIGNAL)
        asyncio.get_running_loop().call_later(_SECOND_SIGNAL, self._exit)
        stop.shutdown_sent.add_done_callback(lambda _: self._exit())

    def _exit(self) -> None:
        try:
            log.warning("the process ends at once", state=self._lifecycle.state)
            self._lifecycle.kill()
        finally:
            termination.exit_now(0)
