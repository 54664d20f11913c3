"""Files that change: seen by whatever they are replaced, and also while they are read."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from sidecar.auth import setup as gate
from sidecar.auth.caller import Caller, Credential
from sidecar.auth.setup import AuthSetup
from sidecar.auth.tokens import TokenFile
from sidecar.runtime.filewatch import Watch, signature
from sidecar.runtime.tasks import Supervisor
from tests.support import access
from tests.support.harness import eventually
from tests.support.settings import make_settings


async def test_somebody_is_told_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    told: list[str] = []
    watch = Watch()
    watch.add(lambda: lambda: told.append("both"), first, second)
    watch.add(lambda: lambda: told.append("second"), second)
    await watch.look()
    assert told == []
    first.write_text("x")
    second.write_text("x")
    await watch.look()
    assert sorted(told) == ["both", "second"]
    second.unlink()
    await watch.look()
    await watch.look()
    assert sorted(told) == ["both", "both", "second", "second"]
    await watch.close()


@pytest.mark.parametrize("where", ["thread", "loop"])
async def test_what_cannot_be_read_is_in_nobodys_way(tmp_path: Path, where: str) -> None:
    """What fails is tried again at the next change, and others go on."""
    path = tmp_path / "file"
    told: list[int] = []

    def fails() -> None:
        told.append(1)
        raise RuntimeError("nobody has thought of this")

    def read() -> Callable[[], None]:
        if where == "thread":
            fails()
        return fails

    watch = Watch()
    watch.add(read, path)
    watch.add(lambda: lambda: told.append(2), path)
    with structlog.testing.capture_logs() as logs:
        for text in ("a", "ab"):
            path.write_text(text)
            await watch.look()
    assert sorted(told) == [1, 1, 2, 2]
    await watch.close()
    assert [(entry["log_level"], entry["files"]) for entry in logs] == [("error", [str(path)])] * 2


async def test_the_watch_goes_on_after_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.runtime.filewatch._EVERY", 0.01)
    path = tmp_path / "file"
    told: asyncio.Queue[str] = asyncio.Queue()

    def read() -> Callable[[], None]:
        text = path.read_text()
        return lambda: fails(text)

    def fails(text: str) -> None:
        told.put_nowait(text)
        raise RuntimeError("nobody has thought of this")

    watch = Watch()
    watch.add(read, path)
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


async def test_a_file_system_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for it but one thread; what happened meanwhile is seen when it answers again."""
    monkeypatch.setattr("sidecar.runtime.files.PATIENCE", 0.1)
    hanging, path = tmp_path / "hanging", tmp_path / "file"
    answers, told = threading.Event(), list[str]()

    def slow(which: Path) -> tuple[int, ...]:
        if which == hanging and not begun.is_set():
            begun.set()
            assert answers.wait(60)
        return signature(which)

    begun = threading.Event()
    watch = Watch()
    watch.add(lambda: lambda: told.append("hanging"), hanging)
    watch.add(lambda: lambda: told.append("file"), path)
    monkeypatch.setattr("sidecar.runtime.filewatch.signature", slow)
    hanging.write_text("a")
    with structlog.testing.capture_logs() as logs:
        for text in ("a", "ab", "abc"):
            path.write_text(text)
            await watch.look()
        assert told == ["file"] * 3
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert f"{hanging}: the file system does not answer" in logs[0]["reason"]
        answers.set()
        while "hanging" not in told:
            await watch.look()
    assert logs[-1]["log_level"] == "info"
    await watch.close()


async def test_tokens_that_are_swapped_while_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = access.TokenFile(tmp_path / "old", old="read"), access.TokenFile(tmp_path / "new", new="read")

    class Swapped(TokenFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            new.path.replace(path)

    monkeypatch.setattr(gate, "TokenFile", Swapped)
    mine = AuthSetup(make_settings(embedded=True, tokens=str(old.path)))

    async def who(token: str) -> Caller | None:
        return await mine.guard.authenticator.authenticate(Credential("bearer", token), "192.0.2.1")

    assert await who(old.tokens["old"])
    await mine.watch.look()
    await mine.watch.close()
    assert await who(old.tokens["old"]) is None
    assert await who(new.tokens["new"])
