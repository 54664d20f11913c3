"""flux-restful 1.1.0 from PyPI: its client and its command.

It is not a dependency of the tests: its command has the name of that of flux-restful-client 0.2.1, and its server needs
packages that the client does not. The client needs those of the older one.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
from functools import cache
from pathlib import Path

_PACKAGE = "flux-restful==1.1.0"


@cache
def installed() -> Path:
    """Install the package once, and return the directory to import it from."""
    directory = Path(__file__).parents[2] / ".tools" / "flux-restful-1.1.0"
    directory.parent.mkdir(exist_ok=True)
    with (directory.parent / "flux-restful.lock").open("w") as lock:  # of all worker processes the first one installs
        fcntl.flock(lock, fcntl.LOCK_EX)
        complete = directory / "complete"
        if not complete.exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(directory), _PACKAGE]
            subprocess.run(pip, check=True, timeout=300)
            complete.touch()
    return directory
