"""Processes of the embedded engine's jobs that cannot be reached by their process group.

A killed server has left them behind, or they are in sessions of their own (setsid, daemons).
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_MARK = b"FLUX_JOB_TMPDIR="  # in the environment of every process of a job


def end(directory: Path) -> int:
    """Kill the processes of jobs by the directory of their files, which is in their environment.

    Args:
        directory: of one job, or the one where the engine keeps the files of all its jobs.

    Returns:
        How many processes there were.
    """
    of_one = _MARK + os.fsencode(directory)
    of_all = of_one + b"/"
    found = 0
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
                found += 1
    return found
