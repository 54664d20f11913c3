"""Files that are replaced in any way, and while they are read."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from sidecar.auth import setup
from sidecar.auth.caller import Caller, Credential
from sidecar.auth.setup import AuthSetup
from sidecar.auth.tokens import TokenFile
from sidecar.runtime.filewatch import FileWatcher, signature
from sidecar.runtime.tasks import Supervisor
from tests.support import access
from tests.support.harness import eventually
from tests.support.settings import make_settings


async def test_a_change_is_applied_once(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    applied: list[str] = []
    watch = FileWatcher()
    watch.add(lambda: lambda: applied.append("both"), first, second)
    watch.add(lambda: lambda: applied.append("second"), second)
    await watch.check()
    assert applied == []
    first.write_text("x")
    second.write_text("x")
    await watch.check()
    assert sorted(applied) == ["both", "second"]
    second.unlink()
    await watch.check()
    await watch.check()
    assert sorted(applied) == ["both", "both", "second", "second"]
    await watch.close()


@pytest.mark.parametrize("where", ["thread", "loop"])
async def test_an_error_does_not_affect_other_files(tmp_path: Path, where: str) -> None:
    """It is retried at the next change."""
    path = tmp_path / "file"
    applied: list[int] = []

    def fails() -> None:
        applied.append(1)
        raise RuntimeError("unexpected")

    def read() -> Callable[[], None]:
        if where == "thread":
            fails()
        return fails

    watch = FileWatcher()
    watch.add(read, path)
    watch.add(lambda: lambda: applied.append(2), path)
    with structlog.testing.capture_logs() as logs:
        for text in ("a", "ab"):
            path.write_text(text)
            await watch.check()
    assert sorted(applied) == [1, 1, 2, 2]
    await watch.close()
    assert [(entry["log_level"], entry["files"]) for entry in logs] == [("error", [str(path)])] * 2


async def test_the_watch_continues_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.runtime.filewatch._INTERVAL", 0.01)
    path = tmp_path / "file"
    applied: asyncio.Queue[str] = asyncio.Queue()

    def read() -> Callable[[], None]:
        text = path.read_text()
        return lambda: fails(text)

    def fails(text: str) -> None:
        applied.put_nowait(text)
        raise RuntimeError("unexpected")

    watch = FileWatcher()
    watch.add(read, path)
    watch.start(Supervisor())
    for text in ("a", "ab"):
        new = tmp_path / "new"
        new.write_text(text)
        new.replace(path)
        assert await asyncio.wait_for(applied.get(), 10) == text
    await watch.close()


def test_a_change_without_another_size_or_time(tmp_path: Path) -> None:
    """As after `cp -p` or `rsync -t`."""
    path = tmp_path / "file"
    path.write_text("a")
    before, times = signature(path), path.stat()

    def changed() -> bool:
        path.write_text("b")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return signature(path) != before

    eventually(changed, what="a tick of the file system's clock")


async def test_a_file_system_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one thread waits for it; changes in the meantime are applied when it responds again."""
    monkeypatch.setattr("sidecar.runtime.files.TIMEOUT", 0.1)
    hanging, path = tmp_path / "hanging", tmp_path / "file"
    answers, applied = threading.Event(), list[str]()

    def slow(which: Path) -> tuple[int, ...]:
        if which == hanging and not started.is_set():
            started.set()
            assert answers.wait(60)
        return signature(which)

    started = threading.Event()
    watch = FileWatcher()
    watch.add(lambda: lambda: applied.append("hanging"), hanging)
    watch.add(lambda: lambda: applied.append("file"), path)
    monkeypatch.setattr("sidecar.runtime.filewatch.signature", slow)
    hanging.write_text("a")
    with structlog.testing.capture_logs() as logs:
        for text in ("a", "ab", "abc"):
            path.write_text(text)
            await watch.check()
        assert applied == ["file"] * 3
        assert [entry["log_level"] for entry in logs] == ["error"]
        assert f"{hanging}: the file system does not answer" in logs[0]["reason"]
        answers.set()
        while "hanging" not in applied:
            await watch.check()
    assert logs[-1]["log_level"] == "info"
    await watch.close()


async def test_tokens_that_are_replaced_during_a_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = access.TokenFile(tmp_path / "old", old="read"), access.TokenFile(tmp_path / "new", new="read")

    class Swapped(TokenFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            new.path.replace(path)

    monkeypatch.setattr(setup, "TokenFile", Swapped)
    auth = AuthSetup(make_settings(embedded=True, tokens=str(old.path)))

    async def identify(token: str) -> Caller | None:
        return await auth.guard.authenticator.authenticate(Credential("bearer", token), "192.0.2.1")

    assert await identify(old.tokens["old"])
    await auth.watch.check()
    await auth.watch.close()
    assert await identify(old.tokens["old"]) is None
    assert await identify(new.tokens["new"])
