"""The run directory: where the store and output files are."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import structlog

from sidecar.config.early import LOCAL
from sidecar.config.settings import Settings
from sidecar.config.values import SettingsError

log = structlog.get_logger("settings")


class RunDirectory(NamedTuple):
    """Directory of the store and of output files."""

    path: Path
    lasting: bool
    """The server does not remove it: the user has named it."""
    shared: bool
    """A later server beside the same instance uses it again, so it is removed only with the instance."""


def make_run_directory(settings: Settings) -> RunDirectory:
    """Make the directory for the store and for output files.

    Without ``--store`` it is beside the instance's socket, and exists as long as the instance: a server that is
    restarted continues with the same store, and event streams with their positions.

    Raises:
        SettingsError: the directory of ``--store`` cannot be made.
    """
    if settings.jobs.store:
        return RunDirectory(_make_parent(settings.jobs.store), lasting=True, shared=True)
    uri = settings.jobs.uri
    if uri.startswith(LOCAL) and not settings.engine.embedded:
        socket = Path(uri.removeprefix(LOCAL))
        directory = socket.with_name(f"{socket.name}.flux-sidecar")
        if _make_writable(directory):
            return RunDirectory(directory, lasting=False, shared=True)
    return RunDirectory(Path(tempfile.mkdtemp(prefix="flux-sidecar-")), lasting=False, shared=False)


def _make_parent(store: str) -> Path:
    directory = store_path(store).parent
    try:
        if not directory.is_dir():
            log.warning("the directory of --store did not exist and was made", directory=str(directory))
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SettingsError(f"--store {store}: {exc.strerror}: {directory}") from None
    return directory


def store_path(text: str) -> Path:
    """Return the path of ``--store`` with all symbolic links resolved.

    Raises:
        SettingsError: it cannot be resolved.
    """
    try:
        return Path(text).expanduser().resolve()
    except (RuntimeError, OSError) as exc:  # a circle of links, an unknown user, a component that cannot be read
        raise SettingsError(f"--store {text}: {str(exc).rstrip('.')}. Name the path of a file.") from None


def _make_writable(directory: Path) -> bool:
    """Make a directory; return whether it can be written. The store's lock in it excludes a second server."""
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(directory, os.W_OK)
