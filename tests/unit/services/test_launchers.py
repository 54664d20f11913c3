"""Launchers: concurrent starts, their end, and their removal."""

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


def new_launchers(directory: Path, *, kill_timeout: float = 5.0) -> Launchers:
    return Launchers(directory, uri="", kill_timeout=kill_timeout, tasks=Supervisor())


async def start(launchers: Launchers, script: str) -> Launcher:
    return await launchers.start("/bin/sh", ["sh", "-c", script], {"PATH": os.environ["PATH"]}, "/", "")


def alive(pid: int) -> bool:
    """Return whether a process runs, and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def wait_for_output(launchers: Launchers, launcher: Launcher, text: str) -> list[str]:
    async with asyncio.timeout(10):
        while text not in "".join(lines := await launchers.output(launcher.id)):
            await asyncio.sleep(0.01)
    return lines


async def test_concurrent_starts(tmp_path: Path) -> None:
    """Each launcher has its own ID, output and end."""
    launchers = new_launchers(tmp_path)
    started = await asyncio.gather(*(start(launchers, f"echo I am {n}; exec sleep 600") for n in range(8)))
    assert sorted(each.id for each in started) == list(range(1, 9))
    assert len(launchers.all()) == launchers.running == 8
    for number, launcher in enumerate(started):
        assert await wait_for_output(launchers, launcher, "am") == [f"I am {number}\n"]
    launchers.cancel(started[3].id)
    async with asyncio.timeout(10):
        while launchers.running == 8:
            await asyncio.sleep(0.01)
    assert [each.state for each in started].count("ended") == 1
    assert started[3].returncode == -15
    await launchers.close()
    assert not any(alive(each.pid) for each in started)


async def test_close_during_a_start(tmp_path: Path) -> None:
    launchers = new_launchers(tmp_path)
    starting = asyncio.create_task(start(launchers, "exec sleep 600"))
    while not launchers.running:
        await asyncio.sleep(0)
    assert not launchers.all()
    await launchers.close()
    launcher = await starting
    assert launcher.state == "ended"
    assert not alive(launcher.pid)


async def test_launcher_that_ignores_sigterm(tmp_path: Path) -> None:
    launchers = new_launchers(tmp_path)
    launcher = await start(launchers, _DEAF)
    await wait_for_output(launchers, launcher, "deaf")
    begin = time.monotonic()
    await launchers.close(0.2)
    assert time.monotonic() - begin < 2
    assert launcher.returncode == -9


async def test_children_of_a_launcher_end_with_it(tmp_path: Path) -> None:
    """The launcher ends by SIGTERM; its child ignores the signal, and must not outlive the server."""
    launchers = new_launchers(tmp_path)
    launcher = await start(launchers, f"(echo child $(exec sh -c 'echo $PPID'); {_DEAF}) & wait")
    lines = await wait_for_output(launchers, launcher, "deaf")
    child = int(next(line for line in lines if "child" in line).split()[1])
    assert alive(child)
    await launchers.close()
    async with asyncio.timeout(10):
        while alive(child):
            await asyncio.sleep(0.01)


async def test_failed_start_leaves_nothing(tmp_path: Path) -> None:
    launchers = new_launchers(tmp_path)
    with pytest.raises(Rejected, match="cannot be started"):
        await launchers.start("/nonexistent", ["nonexistent"], {}, "/", "")
    assert launchers.running == 0
    await launchers.close()
    assert (await start(launchers, "true")).id == 2
    await launchers.wait_idle()


async def test_removed_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the output is lost, not this launcher or later ones."""
    monkeypatch.setattr(module, "_MAX_ENDED", 1)
    launchers = new_launchers(tmp_path)
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


async def test_number_of_ended_launchers_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_ENDED", 2)
    launchers = new_launchers(tmp_path)
    for _ in range(5):
        await start(launchers, "true")
        await launchers.wait_idle()
    assert [each.id for each in launchers.all()] == [5, 4]
    assert sorted(path.name for path in (tmp_path / "launchers").iterdir()) == ["4.log", "5.log"]
