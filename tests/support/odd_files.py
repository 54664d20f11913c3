"""What can stand at the path of a small file of settings and is none; what can hang elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

ODD = ("FIFO", "directory", "device", "sparse file")


def hanging_looks(directory: Path) -> dict[str, str]:
    """Return variables under which a follower's look at the Job never ends."""
    directory.mkdir()
    text = "import sys, time\nif 'sidecar.outlook' in sys.orig_argv:\n    time.sleep(600)\n"
    (directory / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(directory)}


def put(path: Path, how: str) -> str:
    """Put one of these at a path; return what is said of it."""
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
