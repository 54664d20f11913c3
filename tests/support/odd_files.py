"""Irregular files at the path of a small file of settings, and checks that hang."""

from __future__ import annotations

import os
from pathlib import Path

ODD = ("FIFO", "directory", "device", "sparse file")


def hanging_checks(directory: Path) -> dict[str, str]:
    """Return variables with which a follower's check of the Job never ends."""
    directory.mkdir()
    text = "import sys, time\nif 'sidecar.outlook' in sys.orig_argv:\n    time.sleep(600)\n"
    (directory / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(directory)}


def put(path: Path, how: str) -> str:
    """Put one of these at a path; return the expected text of the error."""
    new = path.with_name(f"{path.name}.odd")
    if how == "FIFO":
        os.mkfifo(new)
    elif how == "directory":
        path.unlink(missing_ok=True)
        new.mkdir()
    elif how == "device":
        new.symlink_to("/dev/zero")
    else:
        with new.open("wb") as file:
            file.truncate(300 << 20)
    new.replace(path)
    return "is larger than 1 MiB" if how == "sparse file" else "is not a regular file"
