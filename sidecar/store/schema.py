"""The file: its tables, its version, and how connections are opened."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import stat
import time
from contextlib import closing
from pathlib import Path

from sidecar.domain.errors import StoreError
from sidecar.store.packing import member

SCHEMA_VERSION, CONVERTIBLE_VERSION = 5, 4
_APPLICATION = 0x666C7363  # "flsc", in the header of the file; files of older servers have 0
_BUSY_TIMEOUT = 1.0
_LARGEST_LOG = 16 * 1024 * 1024  # bytes of the write-ahead log that stay after a checkpoint
_CHECK_SECONDS, _CHECK_STEPS = 2.0, 100_000
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
-- `num` numbers jobs in the order of their IDs, densely, so that the text index takes little space; see numbers.py.
-- `since` is the start time in RUN and the end time in INACTIVE; `held` and `ncores` are set in SCHED only.
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY, num INTEGER NOT NULL, f58id TEXT NOT NULL, t_submit REAL NOT NULL, since REAL,
  state TEXT NOT NULL, result TEXT NOT NULL, userid INTEGER NOT NULL, username TEXT NOT NULL, submitter TEXT NOT NULL,
  queue TEXT NOT NULL, name TEXT NOT NULL, nnodes INTEGER, ntasks INTEGER, runtime REAL, nevents INTEGER NOT NULL,
  held INTEGER, ncores INTEGER);
-- A table of its own, so that a list reads few pages of the file. `running` is the start of RUN while the job is in it.
CREATE TABLE documents (num INTEGER PRIMARY KEY, job INTEGER NOT NULL, running REAL, json BLOB NOT NULL);
-- The ID is the last column of each index, as the key of its table.
CREATE INDEX jobs_state ON jobs (state);
CREATE INDEX jobs_result ON jobs (result);
CREATE INDEX jobs_username ON jobs (username);
CREATE INDEX jobs_submitter ON jobs (submitter) WHERE submitter != '';
CREATE INDEX jobs_name ON jobs (name);
CREATE INDEX jobs_t_submit ON jobs (t_submit);
-- For the removal of the jobs that have ended first.
CREATE INDEX jobs_ended ON jobs (since) WHERE state = 'INACTIVE';
CREATE VIRTUAL TABLE jobs_text USING fts5 (text, tokenize = 'trigram', columnsize = 0);
-- The journal's events in order: `count` entries of one job's eventlog, the last of which has this position.
CREATE TABLE events (position INTEGER PRIMARY KEY, job INTEGER NOT NULL, count INTEGER NOT NULL, json BLOB NOT NULL);
CREATE INDEX events_job ON events (job);
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
    db.create_function("member", 2, member, deterministic=True)
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file: pages that become free can be cut off
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    return db


def _text(raw: bytes) -> str:
    """Decode a text; a damaged one must not make other rows unreadable."""
    return raw.decode(errors="replace")


def version_of(path: Path) -> int:
    """Return the version of a file; 0 if it is new.

    Raises:
        StoreError, OSError, sqlite3.Error: see :func:`inspect`.
    """
    inspect(path)
    if not path.exists() or not path.stat().st_size:
        return 0
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_BUSY_TIMEOUT)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def inspect(path: Path) -> None:
    """Check, without writing, that a file is new, or a store of this version or of the one that is converted.

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
    """Check that a database is a store of this version, or of the one that is converted."""
    if version not in (SCHEMA_VERSION, CONVERTIBLE_VERSION):
        newer = " A newer server has written it: use that one," if version > SCHEMA_VERSION else ""
        name = "or name another with --store." if newer else "Name another with --store."
        raise StoreError(f"The store {path} is of version {version}; this server needs {SCHEMA_VERSION}.{newer} {name}")
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
    db.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")  # what a busy reader has made it grow beyond is cut off
    [version] = db.execute("PRAGMA user_version").fetchone()
    if version == CONVERTIBLE_VERSION:
        db.close()
        raise StoreError(f"The store {path} is of version {version} and has not been converted. Restart the server.")
    if version == 0:
        create(db, name=secrets.token_hex(4))
    return db


def create(db: sqlite3.Connection, name: str) -> None:
    """Create the schema in a new file.

    Args:
        db: its connection.
        name: of the file: positions are only valid in the file that issued them.
    """
    marks = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {SCHEMA_VERSION};"
    named = f"INSERT INTO meta VALUES ('id', '{name}');"  # noqa: S608 - hexadecimal digits
    with closing(db.cursor()) as cursor:
        cursor.executescript(f"BEGIN; {_SCHEMA} {named} {marks} COMMIT;")


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


def size_of(path: Path) -> int:
    """Return the size of a file with its write-ahead log (bytes)."""
    size = 0
    for suffix in ("", "-wal", "-shm"):
        try:
            size += os.stat(f"{path}{suffix}").st_size
        except OSError:  # not created yet, removed, or unreachable: that must not fail a committed write
            continue
    return size
