"""The command ``flux-sidecar`` for tests of its errors and its help."""

from __future__ import annotations

import os
import subprocess

from tests.support.harness import SIDECAR


def run_command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``flux-sidecar`` without variables of Flux, except those given."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLUX_")} | variables
    return subprocess.run([SIDECAR, *arguments], env=environment, text=True, capture_output=True, timeout=60)
