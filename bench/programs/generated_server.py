"""The server beside an instance whose jobs are generated (:mod:`bench.programs.generated_jobs`), without Flux.

The instance has a history, or jobs that are submitted, run and end while the server follows them. Arguments: number of
ended jobs, new jobs per second, then options of ``serve --embedded``.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from pathlib import Path

import msgspec

from bench.programs import generated_jobs
from sidecar.app import components, server
from sidecar.cli import main
from sidecar.config.settings import Settings
from sidecar.domain.model import JobEvents
from sidecar.instance.flux import journal

_INTERVAL = 0.05  # seconds between two deliveries of events
_PARTS = (slice(0, 4), slice(4, 6), slice(6, None))  # of an eventlog: submitted, started, ended
_APART = 20  # deliveries between two parts


class _Components(components.Components):
    def __init__(self, settings: Settings, directory: Path) -> None:
        super().__init__(settings, directory)
        if ENDED:
            self.feed.history.open = self._open_generated
        if RATE:
            self.tasks.start(self._run_jobs, "generated jobs")

    async def _open_generated(self) -> tuple[int, list[str]]:
        return ENDED, [sys.executable, "-m", "bench.programs.generated_jobs", str(ENDED), str(self.store.path)]

    async def _run_jobs(self) -> None:
        """Deliver the events of new jobs at a steady rate, as the journal does: each part of a job when it happens."""
        begin, number, started = time.monotonic(), ENDED, list[list[JobEvents]]()
        for turn in itertools.count(1):
            await asyncio.sleep(max(0.0, begin + turn * _INTERVAL - time.monotonic()))
            if not self.feed.live:
                continue
            until = max(number, ENDED + int(turn * _INTERVAL * RATE))
            started.append([_job(each) for each in range(number, until)])
            number = until
            for part, events in enumerate(_PARTS):
                before = len(started) - 1 - part * _APART
                for job in started[before] if before >= 0 else ():
                    self._deliver(job, events)
            del started[: -len(_PARTS) * _APART]

    def _deliver(self, job: JobEvents, events: slice) -> None:
        now = time.time()
        some = [msgspec.structs.replace(event, timestamp=now) for event in job.events[events]]
        for event in some:
            self.feed.push(msgspec.structs.replace(job, events=[event]))


def _job(number: int) -> JobEvents:
    return journal.decode(generated_jobs.response(number))


if __name__ == "__main__":
    ENDED, RATE = int(sys.argv.pop(1)), float(sys.argv.pop(1))
    vars(server)["Components"] = _Components
    main()
