"""The watchdog ends a server that is not alive, and no other."""

from __future__ import annotations

import asyncio
import faulthandler
import subprocess
import sys
import time

import pytest

from sidecar.services.checks import Check
from sidecar.services.watchdog import ServerDead, Watchdog


@pytest.fixture
def no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the timer for a blocked event loop: on a busy machine it would end the process of the tests."""
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)


@pytest.mark.usefixtures("no_timer")
def test_checks_that_fail_for_too_long_end_the_server() -> None:
    begun = time.monotonic()
    with pytest.raises(ServerDead, match=r"not alive for 0\.4 s: Events are not worked on\."):
        asyncio.run(Watchdog(lambda: [Check("flux", ""), Check("events", "Events are not worked on.")], 0.4).run())
    assert time.monotonic() - begun >= 0.4


@pytest.mark.usefixtures("no_timer")
def test_checks_that_recover_in_time_do_not_end_the_server() -> None:
    """Every second check succeeds, which restarts the time."""
    checks = 0

    def live() -> list[Check]:
        nonlocal checks
        checks += 1
        return [Check("flux", "" if checks % 2 else "away")]

    async def watch() -> None:
        running = asyncio.create_task(Watchdog(live, 0.2).run())
        while checks < 20 and not running.done():
            await asyncio.wait([running], timeout=0.05)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(watch())


_BLOCKED = """
import asyncio, time
from sidecar.services.watchdog import Watchdog

def block_the_loop():
    time.sleep(60)

async def main():
    watch = asyncio.create_task(Watchdog(lambda: [], 0.5).run())
    await asyncio.wait([watch], timeout=0.6)
    block_the_loop()

asyncio.run(main())
"""


def test_blocked_event_loop_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _BLOCKED], capture_output=True, text=True, timeout=55)
    assert done.returncode == 1
    assert "in block_the_loop" in done.stderr


def test_closed_watchdog_does_nothing() -> None:
    script = _BLOCKED.replace(
        "    block_the_loop()\n\nasyncio",
        "    watch.cancel()\n    await asyncio.wait([watch])\n    time.sleep(1)\n\nasyncio",
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr


_BLOCKED_AT_EXIT = """
import asyncio, ctypes
from sidecar.runtime import termination
from sidecar.services.watchdog import Watchdog

def hold_the_interpreter_lock():
    ctypes.PyDLL(None).sleep(60)  # as a library that hangs: no Python thread can run

async def main():
    watch = asyncio.create_task(Watchdog(lambda: [], 50).run())
    await asyncio.wait([watch], timeout=0.1)
    termination.ExitTimer(2.0, lambda: 0, lambda: None)
    {then}
    hold_the_interpreter_lock()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "then",
    ["watch.cancel(); await asyncio.wait([watch])", "await asyncio.wait([watch], timeout=1.3)"],
    ids=["closed", "ticks"],
)
def test_watchdog_does_not_replace_the_exit_timer(then: str) -> None:
    """faulthandler has only one timer: the one of the exit takes precedence."""
    script = _BLOCKED_AT_EXIT.replace("{then}", then)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=40)
    assert done.returncode == 1
    assert "in hold_the_interpreter_lock" in done.stderr
