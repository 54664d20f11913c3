"""The file of the Unix socket: its ownership, and its removal."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from sidecar.config.values import SettingsError
from sidecar.http.connections import ConnectionLimiter
from sidecar.http.send_watchdog import PeerTimeouts
from sidecar.http.unix_listener import UnixListener
from sidecar.runtime.clock import LoopClock


@pytest.fixture
async def listener(tmp_path: Path) -> AsyncIterator[Callable[[], UnixListener]]:
    async with AsyncExitStack() as stack:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        limiter = ConnectionLimiter(10, PeerTimeouts(LoopClock(), 10, 10), 2**20)
        assert runner.server is not None
        limiter.start(runner.server)
        yield lambda: UnixListener(runner, limiter, tmp_path / "socket", 0o600)


async def test_own_socket_is_removed(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    mine = listener()
    await mine.start()
    assert (tmp_path / "socket").is_socket()
    await mine.stop()
    assert not (tmp_path / "socket").exists()


async def test_another_servers_socket_is_kept(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    mine = listener()
    await mine.start()
    path.rename(tmp_path / "moved")  # so that the next one is surely another file
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        await mine.stop()
        assert path.is_socket()


async def test_socket_of_a_busy_server_is_kept(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    """Its queue is full and it accepts no connection: neither remove its socket nor wait for ever."""
    path = tmp_path / "socket"
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(socket.socket(socket.AF_UNIX))
        other.bind(str(path))
        other.listen(0)
        while True:
            waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
            waiting.setblocking(False)
            if waiting.connect_ex(str(path)) == errno.EAGAIN:
                break
        with pytest.raises(SettingsError, match="its server does not respond"):
            await listener().start()
        assert path.is_socket()


async def test_stale_socket_is_replaced(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "socket"))
    mine = listener()
    await mine.start()
    await mine.stop()
    assert not (tmp_path / "socket").exists()


def reachable(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        return caller.connect_ex(str(path)) == 0


async def test_removed_socket_is_recreated(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    mine = listener()
    mine.check()  # no check before the start
    await mine.start()
    with structlog.testing.capture_logs() as logs:
        mine.check()
        path.unlink()
        mine.check()
        mine.check()
        await asyncio.sleep(0.01)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert reachable(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert mine.unreachable == ""
    await mine.stop()
    assert not path.exists()
    mine.check()
    assert not path.exists()


async def test_another_file_at_the_path_of_the_socket(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    """The file is kept, and reported once; after its removal the server listens again."""
    path = tmp_path / "socket"
    mine = listener()
    await mine.start()
    path.unlink()
    path.write_text("another's")
    with structlog.testing.capture_logs() as logs:
        mine.check()
        mine.check()
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert "another file has taken its place" in mine.unreachable
    assert path.read_text() == "another's"
    path.unlink()
    mine.check()
    assert mine.unreachable == ""
    assert reachable(path)
    await mine.stop()


async def test_removed_directory(listener: Callable[[], UnixListener], tmp_path: Path) -> None:
    mine = listener()
    await mine.start()
    (tmp_path / "socket").unlink()
    tmp_path.rename(tmp_path.with_name("moved"))
    tmp_path.touch()  # no directory can be created there
    with structlog.testing.capture_logs() as logs:
        mine.check()
        mine.check()
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert "cannot be created again" in mine.unreachable
    tmp_path.unlink()
    mine.check()
    assert reachable(tmp_path / "socket")
    await mine.stop()
