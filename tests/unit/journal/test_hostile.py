"""For any content of the journal: the job is listed with its state, invalid parts are empty, and nothing stops."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.domain import idset, untrusted
from sidecar.domain.model import STATES, Job, JobEvents, JournalBegin
from sidecar.instance.flux import journal
from sidecar.journal.feed import Feed
from sidecar.store import Filter, Search, Store
from sidecar.telemetry.instruments import Instruments
from tests.support import hostile
from tests.support.hostile import OddJob, odd_jobs
from tests.support.stored import entries

# ``--hypothesis-profile=hostile`` runs 20,000 examples.
_MANY = settings(
    max_examples=max(300, settings().max_examples), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
_LARGEST_JOB = 100_000
_GOOD = hostile.text(
    {"events": [{"timestamp": 1.0, "name": "submit", "context": {"userid": 0, "urgency": 16}}, {"timestamp": 2.0, "name": "clean"}],
     "jobspec": {"tasks": [{"command": ["true"]}], "resources": [], "attributes": {"system": {}}}}
)[1:]  # fmt: skip


class Journal:
    """A feed with a store, which receives responses as from the Flux thread."""

    def __init__(self, path: Path) -> None:
        self.runner = asyncio.Runner()
        self.store, self.ids = Store(path), itertools.count(10**12)
        self.logged: list[dict[str, Any]] = []
        self.new_active = 0
        """Number of jobs of the last :meth:`push` that are active."""
        self.runner.run(self._start())

    async def _start(self) -> None:
        await self.store.open()
        self.feed = Feed(self.store, Instruments())
        self.feed.start()
        self.feed.push(JournalBegin("i"))
        self.feed.push(JobEvents(-1, []))

    def push(self, jobs: list[OddJob]) -> list[int]:
        """Push the responses of odd jobs in turns, and then of a valid one; return the odd jobs' IDs."""
        ids = [next(self.ids) for _ in jobs]
        responses = [job.responses(id_) for job, id_ in zip(jobs, ids, strict=True)]
        self.runner.run(self._push([each for turn in itertools.zip_longest(*responses) for each in turn if each]))
        return ids

    async def _push(self, responses: list[bytes]) -> None:
        good, active = next(self.ids), self.feed.active_count
        # A disk under load may take longer than any read would wait.
        with structlog.testing.capture_logs() as logged, self.feed.waiters.next_change(good) as stored:
            for text in (*responses, b'{"id":%d,%b' % (good, _GOOD)):
                self.feed.push(journal.decode(text))
            await asyncio.wait_for(stored, 60)
        assert self.feed.running
        assert not self.feed.problem
        assert await self.store.state(good) == "INACTIVE"
        self.logged = [dict(line) for line in logged]
        self.new_active = self.feed.active_count - active

    def close(self) -> None:
        self.runner.run(self.feed.close())
        self.runner.run(self.store.close())
        self.runner.close()


@pytest.fixture(scope="module")
def odd_journal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.journal.feed._GATHER", 0)  # each example waits for its events
        journal_ = Journal(tmp_path_factory.mktemp("hostile") / "s.sqlite")
        yield journal_
        journal_.close()


@_MANY
@given(st.lists(odd_jobs(), min_size=1, max_size=2))
def test_any_job_stays_listed_with_its_state(odd_journal: Journal, jobs: list[OddJob]) -> None:
    ids = odd_journal.push(jobs)
    twice = Counter((line["job"], line["part"]) for line in odd_journal.logged if "part" in line)
    assert not twice or max(twice.values()) == 1, "each kind of fault is logged once"
    assert odd_journal.new_active == sum(expected_state(odd) != "INACTIVE" for odd in jobs)
    for odd, id_ in zip(jobs, ids, strict=True):
        odd_journal.runner.run(_check(odd_journal, odd, id_))
    listed = msgspec.json.decode(
        b"[%b]" % odd_journal.runner.run(odd_journal.store.lists.page(Filter(), 5, "full")).json, type=list[Job]
    )
    assert {*ids} <= {job.id for job in listed}


def expected_state(odd: OddJob) -> str:
    """Apply the state machine of RFC 21; of the events' contents only an exception's severity matters."""
    state = "NEW"
    for event in odd.events:
        name = event.get("name") if isinstance(event, dict) else None
        if name == "exception":
            context = event.get("context")
            severity = context.get("severity", 0) if isinstance(context, dict) else 0
            fatal = isinstance(severity, int) and not isinstance(severity, bool) and severity == 0
            state = "CLEANUP" if fatal else state
        elif name in ("urgency", "jobspec-update", "flux-restart"):
            state = "PRIORITY" if state == "SCHED" else state
        elif name == "priority":
            state = "SCHED" if state == "PRIORITY" else state
        elif name == "clean":
            return "INACTIVE"
        elif isinstance(name, str):
            state = {"validate": "DEPEND", "depend": "PRIORITY", "alloc": "RUN", "finish": "CLEANUP"}.get(name, state)
    return state


async def _check(odd_journal: Journal, odd: OddJob, id_: int) -> None:
    raw = await odd_journal.store.job(id_)
    assert raw is not None, "it is in the store"
    assert len(raw) < _LARGEST_JOB
    job = msgspec.json.decode(raw, type=Job)
    assert job.state in STATES
    assert job.state == expected_state(odd)
    ended = job.state == "INACTIVE"
    assert (job.result != "") == ended
    live_only = sum(isinstance(event, dict) and event.get("name") == "annotations" for event in odd.events)
    assert len(await entries(odd_journal.store, id_)) == len(odd.events) - live_only
    assert await odd_journal.store.jobspec(id_) is not None
    found = [each async for each in odd_journal.store.lists.search(Search(text=job.f58id))]
    assert id_ in [each["id"] for each in msgspec.json.decode(b"[%b]" % b",".join(found))]


@_MANY
@given(odd_jobs())
def test_history_and_live_make_the_same_job(odd_journal: Journal, odd: OddJob) -> None:
    rest = {name: value for each in (odd.first, *odd.later) for name, value in each.items() if name != "events"}
    at_once = OddJob({"events": odd.events, **rest}, [])
    first, second = odd_journal.push([odd, at_once])
    one, other = (
        msgspec.json.decode(odd_journal.runner.run(odd_journal.store.job(id_)) or b"") for id_ in (first, second)
    )
    for name in ("id", "f58id", "runtime"):
        one.pop(name, None), other.pop(name, None)
    assert one == other


async def test_odd_jobs_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server can start with a store of odd jobs, and process their events again."""
    monkeypatch.setattr("sidecar.journal.feed._GATHER", 0)
    odd = hostile.text(
        {"id": 1, "jobspec": {"tasks": 5, "attributes": {"system": {"project": 5, "job": {"name": ["x"]}, "duration": "@huge@"}}},
         "events": [{"timestamp": 1.0, "name": "submit", "context": {"userid": "x"}}, {"timestamp": 1.0, "name": "validate"}, {"timestamp": 2.0, "name": "urgency", "context": {"urgency": None}},
                    {"timestamp": 2.0, "name": "memo", "context": {"a": "@deep1990@"}}]}
    )  # fmt: skip
    for _ in range(3):
        store = Store(tmp_path / "s.sqlite")
        await store.open()
        feed = Feed(store, Instruments())
        feed.start()
        for item in (JournalBegin("i"), journal.decode(odd), JobEvents(-1, [])):
            feed.push(item)
        await feed.close()
        assert feed.caught_up
        assert feed.active_count == 1
        assert len(await entries(store, 1)) == 4
        await store.close()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"5", b"{}", b'{"id":"x","events":[]}', b'{"id":1}', b'{"id":1,"events":[]}', b"\xff\xfe", b'{"id":9223372036854775808,"events":[{"timestamp":1,"name":"submit"}]}',
     b'{"id":-7,"events":[{"timestamp":1,"name":"submit"}]}', b"[" * 100_000, b'{"id":1,"events":' + b"[" * 5000 + b"]" * 5000 + b"}"],
)  # fmt: skip
def test_a_response_without_a_job_raises_an_error(text: bytes) -> None:
    try:
        found = journal.decode(text)
    except ValueError as exc:
        assert len(str(exc)) < 500
    else:
        assert (found.id, [event.name for event in found.events]) == (1, ["unknown"])


def test_only_values_that_are_nested_too_deeply_are_lost() -> None:
    text = hostile.text(
        {"id": 3, "events": [{"timestamp": 1.0, "name": "memo", "context": {"deep": "@deep1990@", "odd": '"[{', "kept": [1, {"a": [2]}]}}]}
    )  # fmt: skip
    found = journal.decode(text)
    context = found.events[0].context
    assert context["kept"] == [1, {"a": [2]}]
    assert context["odd"] == '"[{'
    assert untrusted.too_deep(context) is False
    assert isinstance(context["deep"], list)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 8)), max_size=8))
def test_an_idset_is_the_set_of_its_ids(pairs: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in pairs)
    ids = sorted({each for first, more in pairs for each in range(first, first + more + 1)})
    assert idset.parse(text) == ids
    assert idset.size(idset.ranges(text)) == len(ids)
    assert idset.parse(idset.encode(ids)) == ids
    assert idset.upto(text, 30) == [each for each in ids if each <= 30]


def test_a_large_idset_is_not_expanded() -> None:
    assert idset.size(idset.ranges("0-4294967294")) == 4294967295
    assert idset.upto("0-4294967294", 3) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="more than"):
        idset.parse("0-4294967294")
    for text in ("0-4294967295", "5-1", "x", "-", "1-", "-1", "٣", "1" * 5000, ",".join("1" * 70000)):
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
            idset.ranges(text)
        assert idset.upto(text, 5) == []
