"""The instant from which the job IDs of the embedded engine count.

It is kept beside the jobs' output. IDs begin small in a new directory, as in a new Flux instance, so that they fit into
the 53 bits of JSON numbers in JavaScript and jq for the first six days. They go on rising when a server starts again
where another one has left its jobs.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import structlog

log = structlog.get_logger("embedded")

#: 2026-01-01T00:00:00Z (Unix time in milliseconds): where IDs cannot be known to begin anew without meeting old ones.
FIXED = 1_767_225_600_000
_NAME = "epoch"


def read(directory: Path) -> int:
    """Return the instant, and keep it for the servers that start here later.

    Args:
        directory: where the engine keeps the output of jobs; it exists.

    Returns:
        Unix time in milliseconds: now in an empty directory, and what was kept there in another one.
    """
    path = directory / _NAME
    try:
        return int(path.read_text())
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as exc:
        log.warning("the epoch of job ids cannot be read", path=str(path), reason=str(exc))
        return FIXED
    if any(directory.iterdir()):  # output of a version that kept no epoch
        return FIXED
    epoch = int(time.time() * 1000)
    try:
        temporary = path.with_name(f"{_NAME}.{os.getpid()}")
        temporary.write_text(f"{epoch}\n")
        temporary.replace(path)
    except OSError as exc:
        log.warning("the epoch of job ids cannot be kept", path=str(path), reason=str(exc))
        return FIXED
    return epoch
