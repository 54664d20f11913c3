"""The read-your-writes barrier: limits of pending submits, and which commands a read waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from sidecar.domain.errors import Lagging
from sidecar.journal.active_jobs import ActiveJobs
from sidecar.journal.barrier import Barrier
from sidecar.journal.progress import Progress
from sidecar.journal.retry import Retry
from sidecar.store import Row, Store

Wait = Callable[[], Awaitable[None]]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    yield store
    await store.close()


def new_barrier(store: Store, progress: Progress | None = None) -> Barrier:
    return Barrier(store, progress or Progress(), Retry(), ActiveJobs())


async def test_capacity_for_single_submits_beside_a_bulk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk waits before single submits do; a submit over the limit is refused, and nothing is counted twice."""
    monkeypatch.setattr("sidecar.journal.barrier.TIMEOUT", 0.05)
    barrier = new_barrier(store)
    for number in range(600):
        async with barrier.admit(10):
            barrier.note_accepted(number + 1, "bulk", 10)
    async with asyncio.timeout(5):
        await barrier.wait_for_bulk()  # there is no progress: each line is refused with the reason
    async with barrier.admit(10):
        barrier.note_accepted(1000, "other", 10)
    with pytest.raises(Lagging, match="No jobs are accepted"):
        async with barrier.admit(64 * 1024 * 1024):
            raise AssertionError("there is no capacity")
    for number in [*range(1, 601), 1000]:
        barrier.resolve(number)
    assert (barrier.accepted.bytes, len(barrier.accepted)) == (0, 0)
    assert not barrier.accepted.has_up_to(1000, "bulk")
    async with barrier.admit(64 * 1024 * 1024):  # a single submit may exceed the limit
        pass


async def test_a_command_that_is_not_stored_in_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is pending, only the effect of a cancel: the lag is at least the time that the reader has waited."""
    monkeypatch.setattr("sidecar.journal.barrier.TIMEOUT", 0.1)
    progress = Progress()
    barrier = new_barrier(store, progress)
    progress.received = 1
    barrier.note_command(1, "alice")
    waits: list[Wait] = [
        lambda: barrier.wait_visible("alice"), barrier.wait_visible, lambda: barrier.wait_job_visible(1),
    ]  # fmt: skip
    for wait in waits:
        with pytest.raises(Lagging, match="the effects of accepted commands are not stored yet") as raised:
            await wait()
        assert msgspec.to_builtins(raised.value.body())["lag"] >= 0.1
    barrier.advance(1)
    await barrier.wait_visible("alice")


async def test_each_reader_waits_for_its_own_commands(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits only a moment for the commands of others; a command that selects jobs waits for all."""
    monkeypatch.setattr("sidecar.journal.barrier.TIMEOUT", 0.1)
    monkeypatch.setattr("sidecar.journal.barrier._OTHERS_TIMEOUT", 0.02)
    barrier = new_barrier(store)
    barrier.note_accepted(1, "alice")
    await barrier.wait_visible("bob")
    await barrier.wait_job_visible(2)
    waits: list[Wait] = [
        lambda: barrier.wait_visible("alice"),
        barrier.wait_visible,
        lambda: barrier.wait_job_visible(1),
    ]
    for wait in waits:
        with pytest.raises(Lagging):
            await wait()
    # The store has the job although its events were not noticed: the store is checked.
    await store.write([Row(1, 1.0, None, "SCHED", "", 0, "root", "", "", "", 1, 1, None, 1, "{}", "", b"{}", None)])
    monkeypatch.setattr("sidecar.journal.barrier.TIMEOUT", 5)
    monkeypatch.setattr("sidecar.journal.barrier._CHECK_INTERVAL", 0.05)
    await barrier.wait_visible("alice")
    assert not barrier.is_pending(1)
