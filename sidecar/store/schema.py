"""The file: its tables, its version, and how a connection to it is opened."""

from __future__ import annotations

import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

SCHEMA_VERSION = 4
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, t_submit REAL NOT NULL, t_run REAL, state TEXT NOT NULL, result TEXT NOT NULL,
  userid INTEGER NOT NULL, username TEXT NOT NULL, submitter TEXT NOT NULL,
  queue TEXT NOT NULL, name TEXT NOT NULL,
  nnodes INTEGER, ntasks INTEGER, runtime REAL, nevents INTEGER NOT NULL, brief TEXT NOT NULL);
-- Apart from the rest, so that a list reads few pages of the file. `running` is t_run while the job is in RUN.
CREATE TABLE documents (job INTEGER PRIMARY KEY, running REAL, json TEXT NOT NULL);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_result ON jobs (result, id);
CREATE INDEX jobs_username ON jobs (username, id);
CREATE INDEX jobs_submitter ON jobs (submitter, id) WHERE submitter != '';
CREATE INDEX jobs_name ON jobs (name, id);
CREATE INDEX jobs_t_submit ON jobs (t_submit, id);
CREATE VIRTUAL TABLE jobs_text USING fts5 (text, tokenize = 'trigram');
-- What the journal told, in the order in which it was told: `count` entries of one job's eventlog, the last of which
-- has this position.
CREATE TABLE events (position INTEGER PRIMARY KEY, job INTEGER NOT NULL, count INTEGER NOT NULL, json BLOB NOT NULL);
CREATE INDEX events_job ON events (job, position);
CREATE TABLE jobspecs (job INTEGER PRIMARY KEY, json BLOB NOT NULL);
-- What has happened so far, for metrics: of a counter its value, of a histogram its sum and buckets.
CREATE TABLE totals (name TEXT NOT NULL, labels TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name, labels))
  WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, job INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
"""


class StoreError(Exception):
    """The store cannot be used; the text says why and what to do."""


def open_file(path: Path) -> sqlite3.Connection:
    """Open a connection, for reading too."""
    db = sqlite3.connect(path, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def connect(path: Path) -> sqlite3.Connection:
    """Open for writing; make the schema in a new file, refuse another version's."""
    db = open_file(path)
    # The writer keeps the indexes' pages at hand, and folds the log into the file less often.
    db.execute("PRAGMA cache_size = -4096")
    db.execute("PRAGMA wal_autocheckpoint = 8192")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        # Positions are only good in the file that gave them out: each file has a name of its own.
        name = f"INSERT INTO meta VALUES ('id', '{secrets.token_hex(4)}');"  # noqa: S608 - hexadecimal digits
        with closing(db.cursor()) as cursor:
            cursor.executescript(f"BEGIN; {_SCHEMA} {name} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif version != SCHEMA_VERSION:
        db.close()
        raise StoreError(f"The store {path} is of version {version}, this server needs {SCHEMA_VERSION}.")
    return db
