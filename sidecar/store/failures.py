"""The errors of the store's file: what has failed, and what to do about it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from sidecar.domain.errors import StoreError

_REPAIR = "Move {name}, {name}-wal and {name}-shm away, or rebuild the file with sqlite3's .recover"


def unopened(path: Path, exc: sqlite3.Error | OSError) -> StoreError:
    """Return the error of a file that cannot be opened."""
    repair = f"{_REPAIR.format(name=path.name)}, or name" if is_damage(exc) else "Name"
    return StoreError(f"The store {path} cannot be opened: {_reason(exc)}. {repair} another with --store.")


def unwritten(path: Path, exc: sqlite3.Error | OSError) -> StoreError:
    """Return the error of a transaction of which nothing was written, for example because the disk is full."""
    if isinstance(exc, sqlite3.OperationalError):
        return StoreError(f"The store {path} cannot be written: {exc}.")
    return StoreError(f"The store {path} cannot be written: {_reason(exc)}. {_repair(path)}")


def unreadable(path: Path, exc: sqlite3.Error) -> StoreError:
    """Return the error of a read."""
    return StoreError(f"The store {path} cannot be read: {exc}.{f' {_repair(path)}' if is_damage(exc) else ''}")


def unchecked(path: Path, exc: OSError) -> StoreError:
    """Return the error of a path that cannot be checked."""
    return StoreError(f"The path of the store {path} cannot be checked: {_reason(exc)}.")


def replaced(path: Path) -> StoreError:
    """Return the error of a file that is not at its path any more."""
    return StoreError(
        f"The store {path} was removed or replaced while it was open. Events written from now on are lost when the "
        "server ends: restart it."
    )


def in_use(path: Path) -> StoreError:
    """Return the error of a file with another instance's jobs that cannot be renamed."""
    return StoreError(
        f"The store {path} holds another instance's jobs and cannot be set aside: another program has it open, or its "
        "disk is full. End that program, or free space."
    )


def is_damage(exc: Exception) -> bool:
    """Return whether an error means that the file is damaged, which only another file repairs."""
    return isinstance(exc, sqlite3.Error) and not isinstance(exc, sqlite3.OperationalError | sqlite3.ProgrammingError)


def _reason(exc: Exception) -> str:
    return exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)


def _repair(path: Path) -> str:
    return f"A restart alone does not repair it. Stop the server. {_REPAIR.format(name=path.name)}. Start the server."
