"""A store of version 4, as earlier servers wrote it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import msgspec

from sidecar.domain import fluid
from sidecar.domain.model import Brief
from sidecar.store import LoggedEvents, Row

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, t_submit REAL NOT NULL, t_run REAL, state TEXT NOT NULL, result TEXT NOT NULL,
  userid INTEGER NOT NULL, username TEXT NOT NULL, submitter TEXT NOT NULL,
  queue TEXT NOT NULL, name TEXT NOT NULL,
  nnodes INTEGER, ntasks INTEGER, runtime REAL, nevents INTEGER NOT NULL, brief TEXT NOT NULL);
CREATE TABLE documents (job INTEGER PRIMARY KEY, running REAL, json TEXT NOT NULL);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_result ON jobs (result, id);
CREATE INDEX jobs_username ON jobs (username, id);
CREATE INDEX jobs_submitter ON jobs (submitter, id) WHERE submitter != '';
CREATE INDEX jobs_name ON jobs (name, id);
CREATE INDEX jobs_t_submit ON jobs (t_submit, id);
CREATE VIRTUAL TABLE jobs_text USING fts5 (text, tokenize = 'trigram');
CREATE TABLE events (position INTEGER PRIMARY KEY, job INTEGER NOT NULL, count INTEGER NOT NULL, json BLOB NOT NULL);
CREATE INDEX events_job ON events (job, position);
CREATE TABLE jobspecs (job INTEGER PRIMARY KEY, json BLOB NOT NULL);
CREATE TABLE totals (name TEXT NOT NULL, labels TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name, labels))
  WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, job INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('id', '0123abcd'), ('instance', 'i');
INSERT INTO totals VALUES ('flux_sidecar_events_total', '[]', '[7.0]');
PRAGMA application_id = 0x666C7363;
PRAGMA user_version = 4;
"""


def write(path: Path, batches: Iterable[tuple[list[Row], list[LoggedEvents]]]) -> None:
    """Create a file with these jobs and events."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_SCHEMA)
        for rows, logged in batches:
            with db:
                for row in rows:
                    brief = msgspec.json.encode(
                        Brief(row.id, fluid.f58(row.id), row.state, row.result, row.name)
                    ).decode()
                    db.execute(f"INSERT OR REPLACE INTO jobs VALUES ({', '.join('?' * 15)})", (*row[:14], brief))
                    running = row.t_run if row.state == "RUN" else None
                    db.execute("INSERT OR REPLACE INTO documents VALUES (?, ?, ?)", (row.id, running, row.json))
                    if row.text is not None:
                        db.execute("INSERT OR REPLACE INTO jobs_text (rowid, text) VALUES (?, ?)", (row.id, row.text))
                    if row.jobspec is not None:
                        db.execute("INSERT OR REPLACE INTO jobspecs VALUES (?, ?)", (row.id, row.jobspec))
                    if row.key:
                        db.execute("INSERT INTO keys VALUES (?, ?, ?)", (row.key[0], row.id, row.key[1]))
                for each in logged:
                    db.execute(
                        "INSERT INTO events VALUES (?, ?, ?, ?)", (each.position, each.jobid, each.count, each.json)
                    )
