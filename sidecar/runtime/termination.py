"""Signals, and the end of the process, which no thread or task can delay.

This module is loaded before everything else, also in a follower's pod, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from sidecar.runtime.log_writer import STDERR, log_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU)
"""Signals that stop the instance, including those for a power failure and for the limit of ``ulimit -t``."""
SIGNALS = (*STOP_SIGNALS, signal.SIGHUP)
#: They would end the process, and leave jobs of --embedded behind. SIGSYS and SIGTRAP do end it: they report a bug.
_IGNORED = (
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)  # fmt: skip
_MOST_QUEUED = 2  # signals; another one ends the process, in case that the start hangs
_JOIN = 0.5  # seconds
_FLUSH = 0.5  # seconds
_HANDLED = 10.0  # seconds in which the event loop must handle a signal
_SECOND = 1.0  # seconds after which a second signal does not wait for the event loop

_TERMINATION_LOG = "/dev/termination-log"
_LONGEST_MESSAGE = 4096  # bytes; kubelet reads no more

_queued: list[int] = []
_timers: list[object] = []


def has_exit_timer() -> bool:
    """Whether an :class:`ExitTimer` runs. It uses faulthandler's only timer."""
    return bool(_timers)


def queue_signals() -> None:
    """Queue signals that arrive before the server can handle them; each is a request to stop, not a failure.

    While the interpreter starts, there can be no handler. A parent that must not lose a signal starts the server with
    these signals blocked (``env --block-signal=TERM``); then they are delivered now.
    """
    for number in SIGNALS:
        signal.signal(number, _queue)
    for number in _IGNORED:
        signal.signal(number, _ignore)  # not SIG_IGN, which jobs and launchers would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def write_termination_message(text: str) -> None:
    """Write why the server has failed to the container's termination log, which `kubectl describe pod` shows."""
    try:
        fd = os.open(_TERMINATION_LOG, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # not in Kubernetes
    try:
        os.write(fd, text.encode(errors="backslashreplace")[:_LONGEST_MESSAGE])
    except OSError:
        return
    finally:
        os.close(fd)


def _queue(number: int, _: object) -> None:
    _handle_once(number)
    _queued.append(number)
    if len(_queued) > _MOST_QUEUED:
        exit_now(0)


def _handle_once(number: int) -> None:
    """Ignore SIGXCPU from now on: the kernel sends it every second, and a second signal would end the process."""
    if number == signal.SIGXCPU:
        signal.signal(number, _ignore)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing."""


def queued_signals() -> list[int]:
    """Return the signals that have arrived, in order."""
    return list(_queued)


def handle_signals(
    loop: asyncio.AbstractEventLoop, handle: Callable[[signal.Signals], None], kill: Callable[[], None]
) -> None:
    """Handle signals on the event loop, starting with one that was queued.

    :meth:`loop.add_signal_handler` would not do: with a blocked event loop no signal could end the process.

    Args:
        loop: calls ``handle``.
        handle: called with each signal.
        kill: called if the event loop does not handle a signal; must end the process.
    """
    waiting: list[float] = []

    def handled(number: signal.Signals) -> None:
        waiting.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        handle(number)

    def received(number: int, _: object) -> None:
        if loop.is_closed():
            return  # the process is about to end
        _handle_once(number)
        now = time.monotonic()
        if waiting and now - waiting[0] > _SECOND:
            kill()
        if not waiting:
            signal.setitimer(signal.ITIMER_REAL, _HANDLED)
        waiting.append(now)
        loop.call_soon_threadsafe(handled, signal.Signals(number))

    def timed_out(*_: object) -> None:
        if waiting and time.monotonic() - waiting[0] > _HANDLED - _SECOND:  # otherwise another process has sent it
            kill()

    signal.signal(signal.SIGALRM, timed_out)
    for number in SIGNALS:
        signal.signal(number, received)
    if _queued:
        first = signal.SIGHUP if signal.SIGHUP in _queued else _queued[0]
        _queued.clear()
        handle(signal.Signals(first))


def exit_now(code: int) -> NoReturn:
    """End the process; wait for nothing except, for a moment, for log lines to be written."""
    STDERR.flush(_FLUSH)
    os._exit(code)


def exit_process(code: int) -> NoReturn:
    """End the process without waiting for threads that hang, in a file system or in a name lookup."""
    import threading

    for number in (*SIGNALS, *_IGNORED):
        signal.signal(number, signal.SIG_IGN)  # everything is done; the interpreter would restore the defaults
    deadline = time.monotonic() + _JOIN
    hanging = []
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            hanging.append(thread.name)
    if hanging:
        log_line(f"threads hang, the process ends without them: {', '.join(hanging)}", "error")
        exit_now(code)
    STDERR.flush(_FLUSH)
    sys.exit(code)


class ExitTimer:
    """Ends the process after a timeout, unless it is cancelled.

    Args:
        seconds: the timeout.
        code: returns the exit code.
        report: called before the process ends.
    """

    def __init__(self, seconds: float, code: Callable[[], int], report: Callable[[], None]) -> None:
        import faulthandler
        import threading

        def expired() -> None:
            try:
                report()
            finally:
                exit_now(code())

        self._timer = threading.Timer(seconds, expired)
        self._timer.daemon = True
        self._timer.start()
        _timers.append(self)
        # The timer needs the interpreter's lock; faulthandler's does not, in case that a thread hangs with that lock.
        faulthandler.dump_traceback_later(seconds + 2, exit=True, file=STDERR.file())

    def cancel(self) -> None:
        """Cancel the timer."""
        import faulthandler

        self._timer.cancel()
        _timers.remove(self)
        faulthandler.cancel_dump_traceback_later()


class Deadline:
    """Limits the time of the whole shutdown, from its start on.

    Each step has a timeout of its own; this covers all of them together, and a blocked event loop.

    Args:
        seconds: the timeout.
        report: called after the timeout, before the process ends.
    """

    def __init__(self, seconds: float, report: Callable[[], None]) -> None:
        self._seconds = seconds
        self._report = report
        self._timer: ExitTimer | None = None
        self.code = 0
        """Exit code after the timeout."""

    def begin(self) -> None:
        """Start the timer, unless it is running."""
        if self._timer is None:
            self._timer = ExitTimer(self._seconds, lambda: self.code, self._report)

    def done(self) -> None:
        """Cancel the timer: the shutdown is complete, or was cancelled."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
