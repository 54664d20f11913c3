"""A server that no liveness probe looks at ends itself, and not before."""

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
    """Leave out the timer for a loop that stands still: on a busy machine it would end the process of the tests."""
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)


@pytest.mark.usefixtures("no_timer")
def test_checks_that_fail_for_too_long_end_it() -> None:
    begun = time.monotonic()
    with pytest.raises(ServerDead, match=r"not alive for 0\.4 s: Events are not worked on\."):
        asyncio.run(Watchdog(lambda: [Check("flux", ""), Check("events", "Events are not worked on.")], 0.4).run())
    assert time.monotonic() - begun >= 0.4


@pytest.mark.usefixtures("no_timer")
def test_checks_that_are_good_again_in_time_do_not() -> None:
    """Every second look is good: the time begins anew."""
    looks = 0

    def live() -> list[Check]:
        nonlocal looks
        looks += 1
        return [Check("flux", "" if looks % 2 else "away")]

    async def watch() -> None:
        running = asyncio.create_task(Watchdog(live, 0.2).run())
        while looks < 20 and not running.done():
            await asyncio.wait([running], timeout=0.05)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(watch())


_STANDS_STILL = """
import asyncio, time
from sidecar.services.watchdog import Watchdog

def stand_still():
    time.sleep(60)

async def main():
    watch = asyncio.create_task(Watchdog(lambda: [], 0.5).run())
    await asyncio.wait([watch], timeout=0.6)
    stand_still()

asyncio.run(main())
"""


def test_a_loop_that_stands_still_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", _STANDS_STILL], capture_output=True, text=True, timeout=55)
    assert done.returncode == 1
    assert "in stand_still" in done.stderr


def test_one_that_was_closed_ends_nothing() -> None:
    script = _STANDS_STILL.replace(
        "    stand_still()\n\nasyncio",
        "    watch.cancel()\n    await asyncio.wait([watch])\n    time.sleep(1)\n\nasyncio",
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr


_STANDS_STILL_AT_THE_END = """
import asyncio, ctypes
from sidecar.runtime import termination
from sidecar.services.watchdog import Watchdog

def hold_the_interpreters_lock():
    ctypes.PyDLL(None).sleep(60)  # as a library that hangs: no thread of Python's runs any more

async def main():
    watch = asyncio.create_task(Watchdog(lambda: [], 50).run())
    await asyncio.wait([watch], timeout=0.1)
    termination.ExitTimer(2.0, lambda: 0, lambda: None)
    {then}
    hold_the_interpreters_lock()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "then",
    ["watch.cancel(); await asyncio.wait([watch])", "await asyncio.wait([watch], timeout=1.3)"],
    ids=["closed", "ticks"],
)
def test_it_leaves_the_bound_of_a_stop_alone(then: str) -> None:
    """faulthandler has one timer: once the server leaves, it is for that."""
    script = _STANDS_STILL_AT_THE_END.replace("{then}", then)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=40)
    assert done.returncode == 1
    assert "in hold_the_interpreters_lock" in done.stderr
