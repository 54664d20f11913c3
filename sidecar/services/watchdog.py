"""End a server that does not work (``--end-when-dead``): for pods without a liveness probe, which start it again."""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import Callable

from sidecar.runtime import termination
from sidecar.runtime.log_writer import STDERR
from sidecar.services.checks import Check

_TICK = 1.0  # seconds


class ServerDead(Exception):
    """Only a restart fixes this server; the text says what is wrong."""


class Watchdog:
    """End a server if its liveness checks fail or its event loop is blocked.

    Args:
        live: returns the checks of ``/livez``.
        seconds: how long they may fail, or the event loop may be blocked.
    """

    def __init__(self, live: Callable[[], list[Check]], seconds: float) -> None:
        self._live = live
        self._seconds = seconds

    async def run(self) -> None:
        """Watch the checks and the event loop.

        Raises:
            ServerDead: the checks have failed for too long.
        """
        failing_since, file = 0.0, STDERR.file()
        try:
            while True:
                # If the loop is blocked, a thread of faulthandler writes the stacks of all threads and exits. There is
                # one such timer, which limits the time of the exit once the server leaves: do not set it then.
                if not termination.has_exit_timer():
                    faulthandler.dump_traceback_later(self._seconds, exit=True, file=file)
                await asyncio.sleep(min(_TICK, self._seconds / 4))
                problems = [check.problem for check in self._live() if check.problem]
                failing_since = (failing_since or time.monotonic()) if problems else 0.0
                if failing_since and time.monotonic() - failing_since > self._seconds:
                    raise ServerDead(f"not alive for {self._seconds:g} s: {' '.join(problems)}")
        finally:
            if not termination.has_exit_timer():
                faulthandler.cancel_dump_traceback_later()
