"""Background tasks that die: each death is recorded and handled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
import structlog

from sidecar.runtime import tasks
from sidecar.runtime.tasks import Supervisor


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_FIRST_PAUSE", 0.001)


async def eventually(check: Callable[[], object], what: str) -> None:
    async def poll() -> None:
        while not check():
            await asyncio.sleep(0.001)

    try:
        await asyncio.wait_for(poll(), 10)
    except TimeoutError:
        raise AssertionError(f"{what} not reached") from None


async def test_a_task_that_dies_runs_again() -> None:
    died: list[str] = []
    lives: list[int] = []
    supervisor = Supervisor(died.append)

    async def work() -> None:
        lives.append(len(lives))
        if len(lives) < 3:
            raise KeyError(f"life {lives[-1]}")
        await asyncio.Event().wait()

    with structlog.testing.capture_logs() as logs:
        task = supervisor.start(work, "survey", place="here")
        await eventually(lambda: len(lives) == 3, "the third life")
    assert died == ["survey", "survey"]
    assert [(line["cause"], line["place"], isinstance(line["exc_info"], KeyError)) for line in logs] == [
        ("KeyError: 'life 0'", "here", True),
        ("KeyError: 'life 1'", "here", True),
    ]
    (record,) = supervisor
    assert "task survey has died 2 times" in str(record)
    assert "runs again: KeyError: 'life 1'" in str(record)
    assert not supervisor.dead
    assert await task.close()


async def test_a_repeated_cause_is_logged_with_its_traceback_once() -> None:
    lives: list[None] = []
    supervisor = Supervisor()

    async def work() -> None:
        lives.append(None)
        raise ValueError("always the same")

    with structlog.testing.capture_logs() as logs:
        supervisor.start(work, "feed", vital=True)
        await eventually(lambda: len(lives) > 5, "five deaths")
        await eventually(lambda: supervisor.crash_looping, "a crash loop")
    assert [line.get("exc_info") is not None for line in logs][:3] == [True, False, False]
    assert [record.name for record in supervisor.dead] == ["feed"]
    await supervisor.close()


async def test_a_cancellation_from_inside_is_a_death() -> None:
    """The future that the task awaits was cancelled, not the task."""
    lives: list[None] = []
    supervisor = Supervisor()

    async def work() -> None:
        lives.append(None)
        future = asyncio.get_running_loop().create_future()
        if len(lives) == 1:
            future.cancel()
        await future

    task = supervisor.start(work, "ping")
    await eventually(lambda: len(lives) == 2, "the second life")
    assert await task.close()
    assert [record.deaths for record in supervisor] == [1]


async def test_a_death_can_end_the_server() -> None:
    ended: list[str] = []
    supervisor = Supervisor(end=ended.append)

    async def work() -> None:
        raise RuntimeError("fatal")

    await supervisor.start(work, "lease", on_death="end").task
    assert ended == ["task lease: RuntimeError: fatal"]


async def test_a_death_can_be_recorded_only() -> None:
    supervisor, lives = Supervisor(), list[None]()

    async def work() -> None:
        lives.append(None)
        raise RuntimeError("once")

    await supervisor.start(work, "scaling", on_death="note").task
    assert len(lives) == 1
    assert "is not running" in str(next(iter(supervisor)))


async def test_return_is_not_a_death() -> None:
    supervisor = Supervisor()
    await supervisor.start(lambda: asyncio.sleep(0), "launcher").task
    assert list(supervisor) == []


async def test_a_task_that_does_not_end_is_left_behind() -> None:
    supervisor, release = Supervisor(), asyncio.Event()

    async def work() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    stubborn = supervisor.start(work, "survey")
    await asyncio.sleep(0)  # so that it runs before it is cancelled
    with structlog.testing.capture_logs() as logs:
        assert not await stubborn.close(0.01)
    assert [line["task"] for line in logs] == ["survey"]
    release.set()
    await stubborn.task


async def test_close_ends_all_tasks() -> None:
    supervisor, ended = Supervisor(), list[int]()

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    for number in range(3):
        supervisor.start(lambda number=number: work(number), "launcher", launcher=number)  # type: ignore[misc]
    await asyncio.sleep(0)
    await supervisor.close()
    assert sorted(ended) == [0, 1, 2]
