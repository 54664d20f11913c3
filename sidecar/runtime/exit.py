"""How the process ends: signals from its first moment on, and an end that no thread or task can hold up.

This module is loaded before everything else, also in a follower's pod, so it imports next to nothing.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from sidecar.runtime.log_writer import STDERR, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from typing import NoReturn

ORDERLY = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGPWR, signal.SIGXCPU)
"""The signals that stop the instance: among them that the power fails, and that ``ulimit -t`` is reached."""
SIGNALS = (*ORDERLY, signal.SIGHUP)
#: They would end the process, and leave jobs of --embedded behind. SIGSYS and SIGTRAP do: they tell of a fault.
_IGNORED = (
    signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO, signal.SIGSTKFLT,
    *range(signal.SIGRTMIN, signal.SIGRTMAX + 1),
)  # fmt: skip
_PATIENCE = 2  # signals that are kept; one more ends the process, should a start hang
_JOIN = 0.5  # seconds
_WRITTEN = 0.5  # seconds
_TAKEN = 10.0  # seconds in which the event loop has to take a signal up
_SECOND = 1.0  # seconds after which another signal does not wait for the loop

_TERMINATION_LOG = "/dev/termination-log"
_LONGEST_NOTE = 4096  # bytes, of which kubelet takes no more

_kept: list[int] = []
_bounds: list[object] = []


def is_bounded() -> bool:
    """Whether a :class:`Bound` counts down. Then faulthandler's timer, of which there is one, is for that bound."""
    return bool(_bounds)


def keep_signals() -> None:
    """Keep the signals that arrive before the server can act on them: each of them is a stop, not a failure.

    No handler can be there while the interpreter itself starts. A parent that wants none to be missed then starts the
    server with these signals blocked (``env --block-signal=TERM``): they arrive now.
    """
    for number in SIGNALS:
        signal.signal(number, _keep)
    for number in _IGNORED:
        signal.signal(number, _ignore)  # and not SIG_IGN, which jobs and launchers would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def note_failure(text: str) -> None:
    """Write where kubelet looks why a container has ended: `kubectl describe pod` then shows it."""
    try:
        fd = os.open(_TERMINATION_LOG, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return  # this is no container of Kubernetes
    try:
        os.write(fd, text.encode(errors="backslashreplace")[:_LONGEST_NOTE])
    except OSError:
        return
    finally:
        os.close(fd)


def _keep(number: int, _: object) -> None:
    _take_once(number)
    _kept.append(number)
    if len(_kept) > _PATIENCE:
        end_now(0)


def _take_once(number: int) -> None:
    """Ignore SIGXCPU from now on: the kernel sends it every second, and a second signal would end the process."""
    if number == signal.SIGXCPU:
        signal.signal(number, _ignore)


def _ignore(_number: int, _frame: object) -> None:
    """Do nothing."""


def kept_signals() -> list[int]:
    """Return the signals that have arrived so far, in their order."""
    return list(_kept)


def handle_signals(
    loop: asyncio.AbstractEventLoop, take: Callable[[signal.Signals], None], end_at_once: Callable[[], None]
) -> None:
    """Handle signals on the event loop from now on, and first what was kept.

    Not by :meth:`loop.add_signal_handler`, which leaves it to the loop alone: one that is blocked would never end.

    Args:
        loop: where ``take`` is called.
        take: called with each signal.
        end_at_once: called when the loop does not come to it; must end the process.
    """
    waiting: list[float] = []

    def taken(number: signal.Signals) -> None:
        waiting.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        take(number)

    def arrived(number: int, _: object) -> None:
        if loop.is_closed():
            return  # the process is about to end
        _take_once(number)
        now = time.monotonic()
        if waiting and now - waiting[0] > _SECOND:
            end_at_once()
        if not waiting:
            signal.setitimer(signal.ITIMER_REAL, _TAKEN)
        waiting.append(now)
        loop.call_soon_threadsafe(taken, signal.Signals(number))

    def alarm(*_: object) -> None:
        if waiting and time.monotonic() - waiting[0] > _TAKEN - _SECOND:  # else another process has sent it
            end_at_once()

    signal.signal(signal.SIGALRM, alarm)
    for number in SIGNALS:
        signal.signal(number, arrived)
    if _kept:
        first = signal.SIGHUP if signal.SIGHUP in _kept else _kept[0]
        _kept.clear()
        take(signal.Signals(first))


def end_now(code: int) -> NoReturn:
    """End the process without waiting for anything but, for a moment, for what was logged to be written."""
    STDERR.flush(_WRITTEN)
    os._exit(code)


def end(code: int) -> NoReturn:
    """End the process; threads that hang (in a file system, in a lookup of a name) are not waited for."""
    import threading

    for number in (*SIGNALS, *_IGNORED):
        signal.signal(number, signal.SIG_IGN)  # all is done; the interpreter would bring the default back
    deadline = time.monotonic() + _JOIN
    hanging = []
    for thread in threading.enumerate():
        if thread is threading.current_thread() or thread.daemon:
            continue
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            hanging.append(thread.name)
    if hanging:
        say(f"threads hang, the process ends without them: {', '.join(hanging)}", "error")
        end_now(code)
    STDERR.flush(_WRITTEN)
    sys.exit(code)


class Bound:
    """Ends the process when something has not been done within some seconds.

    Args:
        seconds: how long it may take.
        code: tells the exit code then.
        report: called before the process ends.
    """

    def __init__(self, seconds: float, code: Callable[[], int], report: Callable[[], None]) -> None:
        import faulthandler
        import threading

        def expired() -> None:
            try:
                report()
            finally:
                end_now(code())

        self._timer = threading.Timer(seconds, expired)
        self._timer.daemon = True
        self._timer.start()
        _bounds.append(self)
        # The timer needs the interpreter's lock; should a thread hang while it holds it, this one does not need it.
        faulthandler.dump_traceback_later(seconds + 2, exit=True, file=STDERR.file())

    def done(self) -> None:
        """It was done in time."""
        import faulthandler

        self._timer.cancel()
        _bounds.remove(self)
        faulthandler.cancel_dump_traceback_later()


class Deadline:
    """Bounds how long the whole end takes, from the moment at which the server begins to end what it runs.

    Each step has a deadline of its own; this is for all of them together, and for what none of them sees, such as a
    loop that is blocked.

    Args:
        seconds: how long it may take.
        report: called when it has taken longer, before the process ends.
    """

    def __init__(self, seconds: float, report: Callable[[], None]) -> None:
        self._seconds = seconds
        self._report = report
        self._bound: Bound | None = None
        self.code = 0
        """The exit code of a process that is ended."""

    def begin(self) -> None:
        """Begin to count, unless that was begun before."""
        if self._bound is None:
            self._bound = Bound(self._seconds, lambda: self.code, self._report)

    def done(self) -> None:
        """Count no longer: all is closed, or the end was called off."""
        if self._bound:
            self._bound.done()
            self._bound = None
