"""Merge the history with the journal that is followed at the same time: each job is taken from one of the two.

The journal is requested first, and begins with the jobs that are active then; the history is requested later. So a job
that has ended in the history has either ended before both, and only the history has it, or the journal has its whole
eventlog too. Flux adds nothing to the eventlog of a job that has ended. Whichever is processed first is stored, and the
other one is dropped: a job of the history if the journal has had events of it, and events of the journal, which begin
with the job's submit, if the store has its end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from sidecar.domain import restored
from sidecar.domain.model import Entry
from sidecar.journal.counts import Cell, CountDeltas, Values
from sidecar.journal.history_frame import Frame, StoredJob, decode_job
from sidecar.store import LoggedEvents, Row

_decode_entries = msgspec.json.Decoder(list[Entry]).decode


class HistoryPart:
    """What is written of a frame.

    Args:
        frame: the frame.
        position: position of the last event in the store.
        followed: returns whether to drop a job: the journal has delivered it, or it was removed meanwhile.
    """

    def __init__(self, frame: Frame, position: int, followed: Callable[[int], bool]) -> None:
        self.rows: list[Row] = []
        """The jobs."""
        self.logged: list[LoggedEvents] = []
        """Their events, at the next positions."""
        self.added: Counter[str] = Counter()
        """Number of jobs that the store does not have yet, by queue."""
        self.totals: dict[Cell, Values] = {(name, labels): values for name, labels, values in frame.totals}
        """Changes of the totals."""
        self._position = position
        self.faults: list[tuple[int, str, str]] = []
        """Jobs that cannot be processed: job, kind of fault and detail."""
        for raw in frame.jobs:
            jobid = -1
            try:
                job = decode_job(raw)
                jobid = job.row.id
                if followed(jobid):
                    self._subtract(job)
                else:
                    self._add(job)
            except Exception as exc:  # a bug triggered by an unforeseen value must not affect other jobs
                self.faults.append((jobid, "history", f"cannot be processed: {type(exc).__name__}: {exc}"))

    def _add(self, job: StoredJob) -> None:
        row = job.row
        self.rows.append(row)
        if not job.known:
            self.added[row.queue] += 1
        for count, json in job.events:
            self._position += count
            self.logged.append(
                LoggedEvents(
                    self._position,
                    row.id,
                    count,
                    json,
                    job.f58id,
                    row.userid,
                    row.username,
                    row.submitter,
                    row.queue,
                    row.name,
                    row.t_submit,
                )
            )

    def _subtract(self, job: StoredJob) -> None:
        """Subtract a job that is dropped from the totals."""
        deltas = CountDeltas()
        whole = restored.job(job.row.json.encode(), job.row.id)
        deltas.add(whole, [entry for _, json in job.events for entry in _decode_entries(json)])
        for cell, values in deltas.cells.items():
            if before := self.totals.get(cell):
                self.totals[cell] = [a - b for a, b in zip(before, values, strict=True)]
