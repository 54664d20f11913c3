"""Files that change: seen by whatever they are replaced, and also while they are read."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import structlog

from sidecar import gate
from sidecar.auth.caller import Caller, Credential
from sidecar.auth.tokens import TokenFile
from sidecar.gate import Gate
from sidecar.settings import Settings
from sidecar.tasks import Supervisor
from sidecar.watch import Watch, signature
from tests import access
from tests.harness import eventually


def test_somebody_is_told_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    told: list[str] = []
    watch = Watch()
    watch.add(lambda: told.append("both"), first, second)
    watch.add(lambda: told.append("second"), second)
    watch.look()
    assert told == []
    first.write_text("x")
    second.write_text("x")
    watch.look()
    assert told == ["both", "second"]
    second.unlink()
    watch.look()
    watch.look()
    assert told == ["both", "second"] * 2


def test_what_cannot_be_read_is_in_nobodys_way(tmp_path: Path) -> None:
    """A callback that fails is tried again at the next change, and others go on."""
    path = tmp_path / "file"
    told: list[int] = []

    def fails() -> None:
        told.append(1)
        raise RuntimeError("nobody has thought of this")

    watch = Watch()
    watch.add(fails, path)
    watch.add(lambda: told.append(2), path)
    with structlog.testing.capture_logs() as logs:
        for text in ("a", "ab"):
            path.write_text(text)
            watch.look()
    assert told == [1, 2, 1, 2]
    assert [(entry["log_level"], entry["files"]) for entry in logs] == [("error", [str(path)])] * 2


async def test_the_watch_goes_on_after_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.watch._EVERY", 0.01)
    path = tmp_path / "file"
    told: asyncio.Queue[str] = asyncio.Queue()

    def fails() -> None:
        told.put_nowait(path.read_text())
        raise RuntimeError("nobody has thought of this")

    watch = Watch()
    watch.add(fails, path)
    watch.start(Supervisor())
    for text in ("a", "ab"):
        new = tmp_path / "new"
        new.write_text(text)
        new.replace(path)
        assert await asyncio.wait_for(told.get(), 10) == text
    await watch.close()


def test_a_change_that_looks_like_none(tmp_path: Path) -> None:
    """As large as before, and as old: so `cp -p` and `rsync -t` leave a file."""
    path = tmp_path / "file"
    path.write_text("a")
    before, times = signature(path), path.stat()

    def changed() -> bool:
        path.write_text("b")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return signature(path) != before

    eventually(changed, what="a later tick of the file system's clock")


async def test_tokens_that_are_swapped_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = access.TokenFile(tmp_path / "old", old="read"), access.TokenFile(tmp_path / "new", new="read")

    class Swapped(TokenFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            new.path.replace(path)

    monkeypatch.setattr(gate, "TokenFile", Swapped)
    mine = Gate(Settings(embedded=True, tokens=str(old.path)))

    async def who(token: str) -> Caller | None:
        return await mine.guard.authenticator.caller(Credential("bearer", token), "192.0.2.1")

    assert await who(old.tokens["old"])
    mine.watch.look()
    assert await who(old.tokens["old"]) is None
    assert await who(new.tokens["new"])
