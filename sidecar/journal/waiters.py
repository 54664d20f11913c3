"""Requests that wait for the next change of a job: long polls, and streams of one job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from sidecar.journal.tail import Notifier


class Waiters:
    """Requests by the job that they wait for."""

    def __init__(self) -> None:
        self._notifiers: dict[int, Notifier] = {}

    def __len__(self) -> int:
        """Return the number of jobs that requests wait for."""
        return len(self._notifiers)

    @contextmanager
    def next_change(self, jobid: int) -> Iterator[asyncio.Future[None]]:
        """Provide a future that is done when the job's next events are in the store.

        Enter this context before reading the job's state, so that no change in between is missed.
        """
        notifier = self._notifiers.setdefault(jobid, Notifier())
        try:
            with notifier.next() as future:
                yield future
        finally:
            if not notifier and self._notifiers.get(jobid) is notifier:
                del self._notifiers[jobid]

    def notify(self, jobid: int) -> None:
        """Wake the requests that wait for a job."""
        if notifier := self._notifiers.pop(jobid, None):
            notifier.wake()

    def notify_all(self) -> None:
        """Wake all requests, which then read the job's state again."""
        notifiers, self._notifiers = self._notifiers, {}
        for notifier in notifiers.values():
            notifier.wake()
