"""Processes of the embedded engine's jobs that are in no known process group.

They were left behind by a killed server, or are in sessions of their own (setsid, daemons).
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_VARIABLE = b"FLUX_JOB_TMPDIR="  # in the environment of every process of a job


def kill(directory: Path) -> int:
    """Kill the processes with a directory of jobs in their environment.

    Args:
        directory: the temporary directory of one job, or the one that contains those of all jobs.

    Returns:
        The number of processes.
    """
    of_one = _VARIABLE + os.fsencode(directory)
    of_all = of_one + b"/"
    count = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended, or belongs to another user
            continue
        if any(variable == of_one or variable.startswith(of_all) for variable in variables):
            with contextlib.suppress(OSError):
                os.kill(int(entry.name), signal.SIGKILL)
                count += 1
    return count
