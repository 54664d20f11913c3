"""The epoch of the embedded engine's jobids, stored beside the jobs' output.

Jobids start small in a new directory, as in a new Flux instance: for the first six days they fit into the 53 bits of
JSON numbers in JavaScript and jq. They continue to rise when a server starts where another one has left its jobs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

log = structlog.get_logger("embedded")

#: 2026-01-01T00:00:00Z in Unix milliseconds; used if jobids that start again could collide with old ones.
FIXED = 1_767_225_600_000
_NAME = "epoch"


def read(directory: Path) -> int:
    """Return the epoch of a directory, and store it for later servers.

    Args:
        directory: an existing directory where the engine stores the output of jobs.

    Returns:
        Unix time in milliseconds: the current time for an empty directory, otherwise the stored epoch.
    """
    path = directory / _NAME
    try:
        return int(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as exc:
        log.warning("the epoch of job ids cannot be read", path=str(path), reason=str(exc))
        return FIXED
    if any(directory.iterdir()):  # output of a version that did not store an epoch
        return FIXED
    epoch = int(time.time() * 1000)
    try:
        temporary = path.with_name(f"{_NAME}.{os.getpid()}")
        temporary.write_text(f"{epoch}\n")
        temporary.replace(path)
    except OSError as exc:
        log.warning("the epoch of job ids cannot be stored", path=str(path), reason=str(exc))
        return FIXED
    return epoch
