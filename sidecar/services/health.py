"""The checks of ``/livez`` and ``/readyz``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from sidecar.instance import Instance
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Record, Supervised, Supervisor
from sidecar.services.checks import Check, DiskSpace, LoopLag, PeriodicCheck
from sidecar.services.lifecycle import Lifecycle
from sidecar.store import Store, StoreError

_MAX_LAG = 5.0  # seconds; beyond it lists lack events that are not recent any more


class Health:
    """All checks of one server.

    Args:
        instance: its connection.
        feed: progress of the journal.
        lifecycle: state of the service.
        tasks: all background tasks of the server.
        periodic: checks that may take long, see :func:`storage_checks`.
        listener_problem: returns why clients cannot reach a listener; empty if they can.
    """

    def __init__(
        self,
        instance: Instance,
        feed: Feed,
        lifecycle: Lifecycle,
        tasks: Supervisor,
        periodic: Sequence[PeriodicCheck] = (),
        *,
        listener_problem: Callable[[], str] = str,
    ) -> None:
        self._instance = instance
        self._feed = feed
        self._lifecycle = lifecycle
        self._tasks = tasks
        self._periodic = periodic
        self._listener_problem = listener_problem
        self.lag = LoopLag()
        self._running: list[Supervised] = []

    def start(self) -> None:
        """Start the periodic checks in background tasks."""
        for work in (self.lag.run, *(check.run for check in self._periodic)):
            self._running.append(self._tasks.start(work, "health", vital=True))

    async def close(self) -> None:
        """Cancel the tasks."""
        await asyncio.gather(*(task.close() for task in self._running))

    def live(self) -> list[Check]:
        """Return the checks that, when they fail, only a restart fixes."""
        return [
            Check("events", "" if self._feed.running else "Job events are no longer processed."),
            Check("flux", self._instance.fault),
            Check("tasks", _sentences(self._tasks.crash_looping), note=_sentences(self._tasks)),
        ]

    def ready(self) -> list[Check]:
        """Return all checks: whether commands are accepted and all active jobs are known."""
        status, state = self._instance.status, self._lifecycle.state
        connected = status.connection == "ready"
        disconnected = f"The instance is {status.connection}: {status.detail or 'no response yet'}."
        lag = self._feed.lag
        followed = self._feed.live or not connected  # without a connection, report only that
        *live, tasks = self.live()
        return [
            *live,
            tasks._replace(problem=_sentences(self._tasks.dead)),
            Check("instance", "" if connected else disconnected),
            Check("journal", "" if followed else "The active jobs are being read.", note=self._history()),
            Check("stored", self._feed.problem),
            Check("lag", f"Job events are stored {lag:.1f} s late." if lag > _MAX_LAG else ""),
            Check("service", "" if state == "running" else f"The service is {state}.", note=self._listener_problem()),
            *(check.result for check in self._periodic),
        ]

    def _history(self) -> str:
        """Return how far the history is read; empty if it is complete, or nothing is read."""
        return str(self._feed.history.progress) if self._feed.live and not self._feed.caught_up else ""


def storage_checks(store: Store, *, min_free: int) -> list[PeriodicCheck]:
    """Return the checks that the store can be written and that its file system has some bytes free."""
    disk = DiskSpace(store.path.parent, min_free)
    return [
        PeriodicCheck("store", store.probe, (StoreError,)),
        PeriodicCheck("disk", disk.check, (OSError, StoreError)),
    ]


def _sentences(records: Iterable[Record]) -> str:
    text = "; ".join(str(record) for record in records)
    return f"{text[:1].upper()}{text[1:]}." if text else ""
