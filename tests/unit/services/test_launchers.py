"""Launchers that are started, ended and forgotten, several at once."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from sidecar.domain.errors import NotFound, Rejected, Unavailable
from sidecar.runtime.tasks import Supervisor
from sidecar.services import launchers as module
from sidecar.services.launchers import Launcher, Launchers

_DEAF = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"


def made(directory: Path, *, kill_timeout: float = 5.0) -> Launchers:
    return Launchers(directory, uri="", kill_timeout=kill_timeout, tasks=Supervisor())


async def start(launchers: Launchers, script: str) -> Launcher:
    return await launchers.start("/bin/sh", ["sh", "-c", script], {"PATH": os.environ["PATH"]}, "/", "")


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that its parent has not looked at does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def says(launchers: Launchers, launcher: Launcher, text: str) -> list[str]:
    async with asyncio.timeout(10):
        while text not in "".join(lines := await launchers.output(launcher.id)):
            await asyncio.sleep(0.01)
    return lines


async def test_started_at_once(tmp_path: Path) -> None:
    """Each has its own number, its own output and its own end."""
    launchers = made(tmp_path)
    begun = await asyncio.gather(*(start(launchers, f"echo I am {n}; exec sleep 600") for n in range(8)))
    assert sorted(each.id for each in begun) == list(range(1, 9))
    assert len(launchers.all()) == launchers.running == 8
    for number, launcher in enumerate(begun):
        assert await says(launchers, launcher, "am") == [f"I am {number}\n"]
    launchers.cancel(begun[3].id)
    async with asyncio.timeout(10):
        while launchers.running == 8:
            await asyncio.sleep(0.01)
    assert [each.state for each in begun].count("ended") == 1
    assert begun[3].returncode == -15
    await launchers.close()
    assert not any(alive(each.pid) for each in begun)


async def test_closed_while_one_is_being_started(tmp_path: Path) -> None:
    launchers = made(tmp_path)
    starting = asyncio.create_task(start(launchers, "exec sleep 600"))
    while not launchers.running:
        await asyncio.sleep(0)
    assert not launchers.all()
    await launchers.close()
    launcher = await starting
    assert launcher.state == "ended"
    assert not alive(launcher.pid)


async def test_one_that_ignores_sigterm(tmp_path: Path) -> None:
    launchers = made(tmp_path)
    launcher = await start(launchers, _DEAF)
    await says(launchers, launcher, "deaf")
    begin = time.monotonic()
    await launchers.close(0.2)
    assert time.monotonic() - begin < 2
    assert launcher.returncode == -9


async def test_what_a_launcher_has_started_ends_with_it(tmp_path: Path) -> None:
    """The launcher ends by SIGTERM; its child ignores it, and must not outlive the server."""
    launchers = made(tmp_path)
    launcher = await start(launchers, f"(echo child $(exec sh -c 'echo $PPID'); {_DEAF}) & wait")
    lines = await says(launchers, launcher, "deaf")
    child = int(next(line for line in lines if "child" in line).split()[1])
    assert alive(child)
    await launchers.close()
    async with asyncio.timeout(10):
        while alive(child):
            await asyncio.sleep(0.01)


async def test_one_that_cannot_be_started_leaves_nothing(tmp_path: Path) -> None:
    launchers = made(tmp_path)
    with pytest.raises(Rejected, match="cannot be started"):
        await launchers.start("/nonexistent", ["nonexistent"], {}, "/", "")
    assert launchers.running == 0
    await launchers.close()
    assert (await start(launchers, "true")).id == 2
    await launchers.wait_idle()


async def test_an_output_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the launcher nor those after it are lost with it."""
    monkeypatch.setattr(module, "_MAX_ENDED", 1)
    launchers = made(tmp_path)
    launcher = await start(launchers, "echo gone")
    await launchers.wait_idle()
    log = tmp_path / "launchers" / f"{launcher.id}.log"
    log.unlink()
    with pytest.raises(NotFound, match="has been removed"):
        await launchers.output(launcher.id)
    log.mkdir()
    with pytest.raises(Unavailable, match="cannot be read"):
        await launchers.output(launcher.id)
    second = await start(launchers, "echo here")
    await launchers.wait_idle()
    assert second.state == "ended"
    assert await launchers.output(second.id) == ["here\n"]


async def test_what_has_ended_is_not_kept_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ENDED", 2)
    launchers = made(tmp_path)
    for _ in range(5):
        await start(launchers, "true")
        await launchers.wait_idle()
    assert [each.id for each in launchers.all()] == [5, 4]
    assert sorted(path.name for path in (tmp_path / "launchers").iterdir()) == ["4.log", "5.log"]
