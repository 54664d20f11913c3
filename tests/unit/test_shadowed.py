"""Another package with the name ``sidecar``: the command reports it, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import ROOT


def run(path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f"import sys; sys.path[:0] = {path.split(':')!r}; import flux_sidecar; flux_sidecar.main()"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "text",
    ["__version__ = '0.8.1'\n", "import ipywidgets_is_not_here\n", "from ._version import __version__\n"],
    ids=["importable", "another's dependency", "overwritten"],
)
def test_shadowing_by_another_package(tmp_path: Path, text: str) -> None:
    (tmp_path / "sidecar").mkdir()
    (tmp_path / "sidecar/__init__.py").write_text(text)
    found = run(f"{tmp_path}:{ROOT}", "serve", "--embedded")
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
    assert "environment of its own" in found.stderr


def test_no_shadowing(tmp_path: Path) -> None:
    assert run(str(ROOT), "--version").returncode == 0


def test_missing_dependency_is_named(tmp_path: Path) -> None:
    """It is not attributed to the other package."""
    (tmp_path / "cyclopts.py").write_text("raise ImportError('no such thing', name='cyclopts')\n")
    found = run(f"{tmp_path}:{ROOT}", "--version")
    assert "no such thing" in found.stderr
    assert "Jupyter" not in found.stderr
