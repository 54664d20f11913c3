"""What takes the place of a liveness probe where there can be none: the server ends itself, and is started again."""

from __future__ import annotations

import asyncio
import faulthandler
import time
from collections.abc import Callable

from sidecar.runtime import exit as leaving
from sidecar.runtime.log_writer import STDERR
from sidecar.services.health import Check

_TICK = 1.0


class Watchdog:
    """Ends a server that does not live.

    Args:
        live: the checks of ``/livez``.
        seconds: for how long they may fail, or the event loop may stand still.
    """

    def __init__(self, live: Callable[[], list[Check]], seconds: float) -> None:
        self._live = live
        self._seconds = seconds

    async def run(self) -> None:
        """Watch.

        Raises:
            ServerDead: the checks have failed for too long; the server ends with this.
        """
        failing, file = 0.0, STDERR.file()
        try:
            while True:
                # In a thread of its own, for a loop that stands still: it writes what every thread does, and exits.
                # There is one such timer: once the server leaves, it bounds that, and is not to be set here any more.
                if not leaving.is_bounded():
                    faulthandler.dump_traceback_later(self._seconds, exit=True, file=file)
                await asyncio.sleep(min(_TICK, self._seconds / 4))
                problems = [check.problem for check in self._live() if check.problem]
                failing = (failing or time.monotonic()) if problems else 0.0
                if failing and time.monotonic() - failing > self._seconds:
                    raise ServerDead(f"not alive for {self._seconds:g} s: {' '.join(problems)}")
        finally:
            if not leaving.is_bounded():
                faulthandler.cancel_dump_traceback_later()


class ServerDead(Exception):
    """Only a restart mends this server; the text says what is wrong."""
