"""Whatever the journal holds: the job stays listed, its state is right, what is odd is empty and small, and nothing ends."""

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
from sidecar.domain.model import STATES, HistoryBegin, Job, JobEvents
from sidecar.instance.flux import journal
from sidecar.journal.feed import Feed
from sidecar.store import Filter, Search, Store
from sidecar.telemetry.instruments import Instruments
from tests.support import hostile
from tests.support.hostile import OddJob, odd_jobs
from tests.support.stored import entries

#: ``--hypothesis-profile=hostile`` runs 20,000 examples.
_MANY = settings(
    max_examples=max(300, settings.default.max_examples), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)  # fmt: skip
_LARGEST_JOB = 100_000
_GOOD = hostile.text(
    {"events": [{"timestamp": 1.0, "name": "submit", "context": {"userid": 0, "urgency": 16}}, {"timestamp": 2.0, "name": "clean"}],
     "jobspec": {"tasks": [{"command": ["true"]}], "resources": [], "attributes": {"system": {}}}}
)[1:]  # fmt: skip


class Journal:
    """A feed with a store, that is told responses as the Flux thread hands them over."""

    def __init__(self, path: Path) -> None:
        self.runner = asyncio.Runner()
        self.store, self.ids = Store(path), itertools.count(10**12)
        self.logged: list[dict[str, Any]] = []
        self.listed = 0
        self.runner.run(self._start())

    async def _start(self) -> None:
        await self.store.open()
        self.feed = Feed(self.store, Instruments())
        self.feed.start()
        self.feed.push(HistoryBegin("i"))
        self.feed.push(JobEvents(-1, []))

    def tell(self, jobs: list[OddJob]) -> list[int]:
        """Tell of odd jobs, response by response in turns, and of a good one behind them; return their ids."""
        ids = [next(self.ids) for _ in jobs]
        told = [job.responses(id_) for job, id_ in zip(jobs, ids, strict=True)]
        self.runner.run(self._tell([each for turn in itertools.zip_longest(*told) for each in turn if each]))
        return ids

    async def _tell(self, responses: list[bytes]) -> None:
        good = next(self.ids)
        # A disk under load may take longer than any read would wait.
        with structlog.testing.capture_logs() as logged, self.feed.change(good) as stored:
            for text in (*responses, b'{"id":%d,%b' % (good, _GOOD)):
                self.feed.push(journal.decode(text))
            await asyncio.wait_for(stored, 60)
        assert self.feed.running
        assert not self.feed.problem
        assert await self.store.state(good) == "INACTIVE"
        self.logged = list(logged)

    def close(self) -> None:
        self.runner.run(self.feed.close())
        self.runner.run(self.store.close())
        self.runner.close()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Journal]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sidecar.journal.feed._GATHER", 0)  # each example waits for its own
        journal_ = Journal(tmp_path_factory.mktemp("hostile") / "s.sqlite")
        yield journal_
        journal_.close()


@_MANY
@given(st.lists(odd_jobs(), min_size=1, max_size=2))
def test_any_job_stays_listed_with_its_state(told: Journal, jobs: list[OddJob]) -> None:
    ids = told.tell(jobs)
    twice = Counter((line["job"], line["part"]) for line in told.logged if "part" in line)
    assert not twice or max(twice.values()) == 1, "each kind of fault is logged once"
    for odd, id_ in zip(jobs, ids, strict=True):
        told.runner.run(_as_it_should_be(told, odd, id_))
    listed = msgspec.json.decode(b"[%b]" % told.runner.run(told.store.page(Filter(), 5, "full")).json, type=list[Job])
    assert {*ids} <= {job.id for job in listed}


def expected_state(odd: OddJob) -> str:
    """The state machine of RFC 21, of which only an exception's severity depends on what an event holds."""
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


async def _as_it_should_be(told: Journal, odd: OddJob, id_: int) -> None:
    raw = await told.store.job(id_)
    assert raw is not None, "it is listed"
    assert len(raw) < _LARGEST_JOB
    job = msgspec.json.decode(raw, type=Job)
    assert job.state in STATES
    assert job.state == expected_state(odd)
    ended = job.state == "INACTIVE"
    assert (job.result != "") == ended
    assert (id_ not in told.feed._active) == ended
    live_only = sum(isinstance(event, dict) and event.get("name") == "annotations" for event in odd.events)
    assert len(await entries(told.store, id_)) == len(odd.events) - live_only
    assert await told.store.jobspec(id_) is not None
    found = [each async for each in told.store.search(Search(text=job.f58id))]
    assert id_ in [each["id"] for each in msgspec.json.decode(b"[%b]" % b",".join(found))]


@_MANY
@given(odd_jobs())
def test_history_and_live_make_the_same_job(told: Journal, odd: OddJob) -> None:
    rest = {name: value for each in (odd.first, *odd.later) for name, value in each.items() if name != "events"}
    at_once = OddJob({"events": odd.events, **rest}, [])
    first, second = told.tell([odd, at_once])
    one, other = (msgspec.json.decode(told.runner.run(told.store.job(id_)) or b"") for id_ in (first, second))
    for name in ("id", "f58id", "runtime"):
        one.pop(name, None), other.pop(name, None)
    assert one == other


async def test_jobs_go_on_where_they_were_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that was written of odd jobs can be begun with, and their events be told again."""
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
        for item in (HistoryBegin("i"), journal.decode(odd), JobEvents(-1, [])):
            feed.push(item)
        await feed.close()
        assert feed.caught_up
        assert feed.active == 1
        assert len(await entries(store, 1)) == 4
        await store.close()


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"5", b"{}", b'{"id":"x","events":[]}', b'{"id":1}', b'{"id":1,"events":[]}', b"\xff\xfe", b'{"id":9223372036854775808,"events":[{"timestamp":1,"name":"submit"}]}',
     b'{"id":-7,"events":[{"timestamp":1,"name":"submit"}]}', b"[" * 100_000, b'{"id":1,"events":' + b"[" * 5000 + b"]" * 5000 + b"}"],
)  # fmt: skip
def test_a_response_that_is_of_no_job_is_an_error_that_says_so(text: bytes) -> None:
    try:
        found = journal.decode(text)
    except ValueError as exc:
        assert len(str(exc)) < 500
    else:
        assert (found.id, [event.name for event in found.events]) == (1, ["unknown"])


def test_what_is_nested_too_deeply_costs_no_more_than_that() -> None:
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


def test_an_idset_is_never_listed_because_it_is_large() -> None:
    assert idset.size(idset.ranges("0-4294967294")) == 4294967295
    assert idset.upto("0-4294967294", 3) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="more than"):
        idset.parse("0-4294967294")
    for text in ("0-4294967295", "5-1", "x", "-", "1-", "-1", "٣", "1" * 5000, ",".join("1" * 70000)):
        with pytest.raises(ValueError):  # noqa: PT011 - each in words of its own
            idset.ranges(text)
        assert idset.upto(text, 5) == []
