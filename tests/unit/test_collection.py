"""The suite on a machine without Flux: its tests are collected, and counted, there too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.harness import ROOT


def test_tests_of_flux_are_collected_without_it(tmp_path: Path) -> None:
    (tmp_path / "flux.py").write_text("raise ModuleNotFoundError('No module named flux', name='flux')\n")
    argv = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/flux"]
    environment = {"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    found = subprocess.run(argv, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120)
    assert "tests left out: they need Flux" in found.stdout, found.stdout + found.stderr
    assert found.returncode == 5, "no test remains, and there is no error"
