"""Idempotency keys are remembered until the store has them, independently of each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sidecar.auth.caller import Caller
from sidecar.domain import submitters
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.job_request import JobRequest
from sidecar.instance.embedded.instance import EmbeddedInstance
from sidecar.journal.feed import Feed
from sidecar.runtime.tasks import Supervisor
from sidecar.services.submissions import Submissions
from sidecar.store import Store
from sidecar.telemetry.instruments import Instruments

ALICE = Caller(name="alice", scopes=frozenset({"submit"}), method="test")


@pytest.fixture
async def submissions(tmp_path: Path) -> AsyncIterator[Submissions]:
    store = Store(tmp_path / "jobs.sqlite")
    await store.open()
    feed, instance = Feed(store, Instruments()), EmbeddedInstance(tmp_path, cores=2, kill_timeout=1)
    feed.start()
    await instance.start(feed, Supervisor())
    await feed.wait_idle()
    yield Submissions(instance, feed, store, {})
    await instance.close()
    await feed.close()
    await store.close()


async def submit(submissions: Submissions, key: str) -> int:
    accepted = await submissions.submit(JobRequest(command="true", urgency=0), key, ALICE)
    return accepted.id


async def test_a_key_that_is_never_stored_delays_no_other(
    submissions: Submissions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that Flux purged before the journal had it is never stored; another one is stored late."""
    feed = submissions._feed
    for job, key in ((1, "purged"), (2, "late")):
        submissions._remember(submitters.scoped_key(key, "alice"), job, "digest", "alice")
    feed.barrier.resolve(1)
    assert feed.barrier.is_pending(2)
    jobs = [await submit(submissions, f"key {number}") for number in range(60)]
    assert await submit(submissions, "key 0") == jobs[0]
    await asyncio.gather(*(feed.barrier.wait_job_visible(job) for job in jobs))
    for _ in range(10):
        assert await submit(submissions, "key 1") == jobs[1]
    assert set(submissions._accepted) == {
        submitters.scoped_key("purged", "alice"),
        submitters.scoped_key("late", "alice"),
    }
    monkeypatch.setattr("sidecar.services.submissions._MAX_AGE", 0.0)
    await submit(submissions, "key 2")
    assert set(submissions._accepted) == {submitters.scoped_key("late", "alice")}, "its job is still pending"


async def test_a_caller_whose_name_is_too_long_for_a_key(submissions: Submissions) -> None:
    caller = Caller(name="a" * 1025, scopes=frozenset({"submit"}), method="test")
    with pytest.raises(InvalidRequest, match="Idempotency-Key: the name of this caller"):
        await submissions.submit(JobRequest(command="true"), "key", caller)
    assert await submissions.submit(JobRequest(command="true", urgency=0), None, caller)
