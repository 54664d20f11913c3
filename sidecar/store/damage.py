"""Return jobs whose stored document is damaged, from the other columns of their rows.

SQLite detects a broken page, but not a changed bit within it; and an earlier version may have written invalid values.
Such a row affects only its own job: lists, searches and streams continue.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from typing import Any

import msgspec
import structlog

from sidecar.domain import restored
from sidecar.store.packing import Damaged, is_checked, unpacked
from sidecar.store.rows import StoredEvent

log = structlog.get_logger("store")

_MAX_LOGGED = 4096
_TEXTS = ("state", "result", "username", "submitter", "queue", "name")
_NUMBERS = ("userid", "t_submit", "nnodes", "ntasks", "runtime")
_SELECT = (
    f"SELECT {', '.join(f'CAST({name} AS BLOB)' for name in _TEXTS)}, {', '.join(_NUMBERS)} FROM jobs WHERE id = ?"  # noqa: S608
)
_decode = msgspec.json.Decoder(list[StoredEvent]).decode


class Damage:
    """Check rows, and log each damaged part of a job once."""

    def __init__(self) -> None:
        self._logged: OrderedDict[tuple[int, str], None] = OrderedDict()

    def note(self, jobid: int, part: str, reason: str) -> None:
        """Log that a part of a stored job cannot be read."""
        if (jobid, part) in self._logged:
            return
        self._logged[jobid, part] = None
        if len(self._logged) > _MAX_LOGGED:
            self._logged.popitem(last=False)
        log.error("a part of the store cannot be read; the rest is served", job=jobid, part=part, reason=reason)

    def job(self, db: sqlite3.Connection, jobid: int, cell: bytes | None) -> bytes:
        """Return the JSON of a job; if it is damaged, rebuild it from the other columns.

        Args:
            db: reads the columns.
            jobid: the job.
            cell: its document as stored; None if there is none.
        """
        json = self.json(cell or b"", jobid, "job")
        return json if json is not None else msgspec.json.encode(restored.job(b"", jobid, _columns(db, jobid)))

    def json(self, cell: bytes, jobid: int, part: str) -> bytes | None:
        """Return the JSON object in a cell; None if it is damaged."""
        try:
            json = unpacked(cell)
        except Damaged as exc:
            self.note(jobid, part, str(exc))
            return None
        if is_checked(cell) or restored.is_whole(json):
            return json
        self.note(jobid, part, "it is not JSON")
        return None

    def checked_entries(self, cell: bytes, jobid: int) -> bytes:
        """Return the JSON of eventlog entries; an empty array if it is damaged."""
        return self._decoded(cell, jobid)[0]

    def entries(self, cell: bytes, jobid: int) -> list[StoredEvent]:
        """Decode eventlog entries; return none if they are damaged."""
        return self._decoded(cell, jobid)[1]

    def _decoded(self, cell: bytes, jobid: int) -> tuple[bytes, list[StoredEvent]]:
        try:
            json = unpacked(cell)
            return json, _decode(json)
        except (ValueError, RecursionError) as exc:
            self.note(jobid, "events", str(exc))
            return b"[]", []


def _columns(db: sqlite3.Connection, jobid: int) -> dict[str, Any]:
    row = db.execute(_SELECT, (jobid,)).fetchone()
    if row is None:
        return {}
    texts = {name: bytes(value or b"").decode(errors="replace") for name, value in zip(_TEXTS, row, strict=False)}
    return texts | dict(zip(_NUMBERS, row[len(_TEXTS) :], strict=True))
