"""The jobids of the embedded engine: small in a new directory, and never assigned twice."""

from __future__ import annotations

import time
from pathlib import Path

from sidecar.instance.embedded import epoch as embedded_epoch


def test_epoch_is_stored(tmp_path: Path) -> None:
    epoch = embedded_epoch.read(tmp_path)
    assert abs(epoch - time.time() * 1000) < 60_000
    (tmp_path / "f1234.output").touch()
    assert embedded_epoch.read(tmp_path) == epoch
    assert sorted(each.name for each in tmp_path.iterdir()) == ["epoch", "f1234.output"]


def test_output_of_a_version_that_stored_no_epoch(tmp_path: Path) -> None:
    (tmp_path / "f1234.output").touch()
    assert embedded_epoch.read(tmp_path) == embedded_epoch.FIXED


def test_unreadable_epoch(tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text("yesterday")
    assert embedded_epoch.read(tmp_path) == embedded_epoch.FIXED
    (tmp_path / "epoch").unlink()
    (tmp_path / "epoch").mkdir()
    assert embedded_epoch.read(tmp_path) == embedded_epoch.FIXED
