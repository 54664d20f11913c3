"""The file: its tables, its version, and how connections are opened."""

from __future__ import annotations

import errno
import secrets
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

from sidecar.domain.errors import StoreError

SCHEMA_VERSION = 4
_APPLICATION = 0x666C7363  # "flsc", in the header of the file; files of older servers have 0
_BUSY_TIMEOUT = 1.0
_CHECK_SECONDS, _CHECK_STEPS = 2.0, 100_000
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, t_submit REAL NOT NULL, t_run REAL, state TEXT NOT NULL, result TEXT NOT NULL,
  userid INTEGER NOT NULL, username TEXT NOT NULL, submitter TEXT NOT NULL,
  queue TEXT NOT NULL, name TEXT NOT NULL,
  nnodes INTEGER, ntasks INTEGER, runtime REAL, nevents INTEGER NOT NULL, brief TEXT NOT NULL);
-- A table of its own, so that a list reads few pages of the file. `running` is t_run while the job is in RUN.
CREATE TABLE documents (job INTEGER PRIMARY KEY, running REAL, json TEXT NOT NULL);
CREATE INDEX jobs_state ON jobs (state, id);
CREATE INDEX jobs_result ON jobs (result, id);
CREATE INDEX jobs_username ON jobs (username, id);
CREATE INDEX jobs_submitter ON jobs (submitter, id) WHERE submitter != '';
CREATE INDEX jobs_name ON jobs (name, id);
CREATE INDEX jobs_t_submit ON jobs (t_submit, id);
CREATE VIRTUAL TABLE jobs_text USING fts5 (text, tokenize = 'trigram');
-- The journal's events in order: `count` entries of one job's eventlog, the last of which has this position.
CREATE TABLE events (position INTEGER PRIMARY KEY, job INTEGER NOT NULL, count INTEGER NOT NULL, json BLOB NOT NULL);
CREATE INDEX events_job ON events (job, position);
CREATE TABLE jobspecs (job INTEGER PRIMARY KEY, json BLOB NOT NULL);
-- Totals of metrics: of a counter its value, of a histogram its sum and buckets.
CREATE TABLE totals (name TEXT NOT NULL, labels TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (name, labels))
  WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, job INTEGER NOT NULL, digest TEXT NOT NULL) WITHOUT ROWID;
"""


def open_file(path: Path, *, busy_timeout: float = _BUSY_TIMEOUT) -> sqlite3.Connection:
    """Open a connection.

    Args:
        path: the file.
        busy_timeout: seconds that a statement waits for the lock of another program.
    """
    db = sqlite3.connect(path, timeout=busy_timeout, check_same_thread=False)
    db.text_factory = _text
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _text(raw: bytes) -> str:
    """Decode a text; a damaged one must not make other rows unreadable."""
    return raw.decode(errors="replace")


def inspect(path: Path) -> None:
    """Check that a file is a store of this version, or can become one, without changing it.

    Raises:
        StoreError: it is a store of another version, or another program's file.
        OSError, sqlite3.Error: it cannot be read, or is not a database.
    """
    for suffix in ("-wal", "-shm"):  # for these, SQLite only reports that it cannot open the file
        _require_regular(beside := path.with_name(f"{path.name}{suffix}"), f"{beside} is")
    if not _require_regular(path, "it is"):
        return
    if not path.stat().st_size:
        return  # perhaps a store that another server is just creating
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT)) as db:
        [application] = db.execute("PRAGMA application_id").fetchone()
        [version] = db.execute("PRAGMA user_version").fetchone()
        [tables] = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application not in (0, _APPLICATION) or (tables and version == 0):
            raise StoreError(f"The store {path} is another program's database. Name another with --store.")
        if tables or version:
            _require(db, path, version)


def _require_regular(path: Path, what: str) -> bool:
    """Return whether a file exists.

    Raises:
        OSError: it is not a regular file.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{what} {'a directory' if stat.S_ISDIR(mode) else 'not a regular file'}")
    return True


def _require(db: sqlite3.Connection, path: Path, version: int) -> None:
    """Check that a database is a store of this version."""
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"The store {path} is of version {version}; this server needs {SCHEMA_VERSION}. Name another with --store."
        )
    try:
        named = db.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()
    except sqlite3.OperationalError as exc:
        if exc.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        named = None  # the table does not exist
    if named is None:
        raise StoreError(
            f"The file {path} is not a store: it has no name in its table meta. Name another with --store."
        )


def connect(path: Path) -> sqlite3.Connection:
    """Open the file for writing; create the schema in a new file.

    Raises:
        StoreError: see :func:`inspect`.
    """
    inspect(path)
    db = open_file(path)
    # The writer caches the indexes' pages, and checkpoints the write-ahead log less often.
    db.execute("PRAGMA cache_size = -4096")
    db.execute("PRAGMA wal_autocheckpoint = 8192")
    if db.execute("PRAGMA user_version").fetchone()[0] == 0:
        # Positions are only valid in the file that issued them, so each file has a name of its own.
        name = f"INSERT INTO meta VALUES ('id', '{secrets.token_hex(4)}');"  # noqa: S608 - hexadecimal digits
        marks = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {SCHEMA_VERSION};"
        with closing(db.cursor()) as cursor:
            cursor.executescript(f"BEGIN; {_SCHEMA} {name} {marks} COMMIT;")
    return db


def check(path: Path) -> None:
    """Check the file for damage, for as long as a start may take; the rest is noticed when it is read.

    Raises:
        sqlite3.DatabaseError: it is damaged.
    """
    deadline = time.monotonic() + _CHECK_SECONDS
    with closing(open_file(path)) as db:
        db.set_progress_handler(lambda: time.monotonic() > deadline, _CHECK_STEPS)
        try:
            [result] = db.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                return
            raise
    if result != "ok":
        raise sqlite3.DatabaseError(f"it is damaged: {result}")
