"""Parts of the server that fail or hang at the start or the close: the others are closed."""

from __future__ import annotations

import asyncio
import time

import pytest
import structlog

from sidecar.runtime import parts
from sidecar.runtime.parts import Parts


async def test_parts_are_closed_in_reverse_order() -> None:
    closed: list[str] = []

    async def close(name: str) -> None:
        closed.append(name)

    async with Parts() as started:
        for name in "abc":
            started.add(name, lambda name=name: close(name))  # type: ignore[misc]
    assert closed == ["c", "b", "a"]


async def test_errors_and_hangs_do_not_skip_other_parts() -> None:
    closed, release = list[str](), asyncio.Event()

    async def fine() -> None:
        closed.append("fine")

    async def fails() -> None:
        raise KeyError("broken")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def hangs() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    begin = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        async with Parts() as started:
            started.add("first", fine)
            started.add("hangs", hangs, 0.05)
            started.add("cancelled", cancelled)
            started.add("fails", fails)
            started.add("last", fine)
    assert closed == ["fine", "fine"]
    assert time.monotonic() - begin < 5
    assert [(line["part"], isinstance(line.get("exc_info"), KeyError)) for line in logs] == [
        ("fails", True),
        ("hangs", False),
    ]
    release.set()
    await asyncio.sleep(0)


async def test_an_error_at_the_start_closes_the_started_parts() -> None:
    closed: list[str] = []

    async def close() -> None:
        closed.append("first")

    async def start() -> None:
        async with Parts() as started:
            started.add("first", close)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await start()
    assert closed == ["first"]


def test_a_run_does_not_wait_for_tasks_that_do_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_CANCEL", 0.05)
    turns: list[None] = []

    async def hangs() -> None:
        while len(turns) < 2:
            try:
                await asyncio.sleep(0.2)
                break
            except asyncio.CancelledError:
                turns.append(None)

    async def main() -> int:
        asyncio.create_task(hangs(), name="stubborn")  # noqa: RUF006 - it is left behind
        await asyncio.sleep(0)
        return 7

    with structlog.testing.capture_logs() as logs:
        assert parts.run(main()) == 7
    assert [line["tasks"] for line in logs] == [["stubborn"]]
