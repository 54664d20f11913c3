"""Rows of the store that cannot be decoded: its file was damaged, or an earlier version wrote what it should not have.

SQLite sees a page that is broken, and no bit of what stands on it. A row that is not what was written costs what it
holds of its one job: lists, searches and streams go on, with what other columns say of that job.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from typing import Any

import msgspec
import structlog

from sidecar.domain import fluid, restored
from sidecar.domain.model import Brief
from sidecar.store.rows import StoredEvent

log = structlog.get_logger("store")

_NOTED = 4096
_TEXTS = ("state", "result", "username", "submitter", "queue", "name")
_NUMBERS = ("userid", "t_submit", "nnodes", "ntasks", "runtime")
_SELECT = (
    f"SELECT {', '.join(f'CAST({name} AS BLOB)' for name in _TEXTS)}, {', '.join(_NUMBERS)} FROM jobs WHERE id = ?"  # noqa: S608
)
_entries = msgspec.json.Decoder(list[StoredEvent]).decode


class Damage:
    """What was found damaged: each part of a job is logged once."""

    def __init__(self) -> None:
        self._noted: OrderedDict[tuple[int, str], None] = OrderedDict()

    def note(self, job: int, part: str, reason: str) -> None:
        """Log that a part of what is stored of a job cannot be read."""
        if (job, part) in self._noted:
            return
        self._noted[job, part] = None
        if len(self._noted) > _NOTED:
            self._noted.popitem(last=False)
        log.error("a part of the store cannot be read; the rest is served", job=job, part=part, reason=reason)

    def sound(self, db: sqlite3.Connection, json: bytes, job: int, what: str = "full") -> bytes:
        """Return a job's JSON as it is stored; where it is none, as far as other columns know it.

        Args:
            db: reads the columns.
            json: as it is stored, in the shape that ``what`` names (see ``Store.page``).
            job: its id.
            what: ``brief``, ``full`` or ``keyed``.
        """
        if restored.is_whole(json.partition(b":")[2] if what == "keyed" else json):
            return json
        self.note(job, "job", "it is not JSON")
        found = restored.job(b"", job, _columns(db, job))
        if what == "brief":
            return msgspec.json.encode(Brief(job, fluid.f58(job), found.state, found.result, found.name))
        encoded = msgspec.json.encode(found)
        return b'"%d":%b' % (job, encoded) if what == "keyed" else encoded

    def told(self, json: bytes, job: int) -> bytes:
        """Return entries as they are stored; none where they cannot be read."""
        return json if self.entries(json, job) else b"[]"

    def entries(self, json: bytes, job: int) -> list[StoredEvent]:
        """Return entries of a job's eventlog; none where they cannot be read."""
        try:
            return _entries(json)
        except (ValueError, RecursionError) as exc:
            self.note(job, "events", str(exc))
            return []


def _columns(db: sqlite3.Connection, job: int) -> dict[str, Any]:
    row = db.execute(_SELECT, (job,)).fetchone()
    if row is None:
        return {}
    texts = {name: bytes(value or b"").decode(errors="replace") for name, value in zip(_TEXTS, row, strict=False)}
    return texts | dict(zip(_NUMBERS, row[len(_TEXTS) :], strict=True))
