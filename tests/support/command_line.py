"""The command ``flux-sidecar`` for tests of its errors and its help."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.harness import SIDECAR


def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``flux-sidecar`` without variables of Flux, except those given."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")} | variables
    return subprocess.run([SIDECAR, *arguments], env=environment, text=True, capture_output=True, timeout=60)


_PROGRAM = """
import sys; sys.argv[1:] = %r
from sidecar.__main__ import main
try: main()
finally: print(*sorted(set(%r) & set(sys.modules)), file=sys.stderr)
"""


def run_and_find_modules(arguments: list[str], *modules: str) -> tuple[int, list[str]]:
    """Run the command in an interpreter; return its exit code, and which of these modules it has loaded."""
    argv = [sys.executable, "-c", _PROGRAM % (arguments, modules)]
    done = subprocess.run(argv, text=True, capture_output=True, timeout=60)
    return done.returncode, done.stderr.splitlines()[-1].split()
