"""The values of a job are bounded in bytes wherever they are read, stored and sent."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain import untrusted
from sidecar.domain.model import Event, JobEvents, JournalBegin
from sidecar.instance.flux import depth, journal
from sidecar.journal import batch, fold
from sidecar.journal.batch import Batch
from sidecar.journal.feed import Feed
from sidecar.journal.tail import Tail
from sidecar.store import Filter, Search, Store
from sidecar.telemetry.instruments import Instruments
from tests.support.stored import entries

_TEXTS = st.text(st.sampled_from('a"\\\n\x01\x7fé€😀\0\ud800'), max_size=300)
_SUBMIT: dict[str, Any] = {"timestamp": 1.0, "name": "submit", "context": {"userid": 0, "urgency": 16}}
_MEMO: dict[str, Any] = {"timestamp": 2.0, "name": "memo", "context": {"k": "m" * 900_000, "few": 1}}
_SPEC = {"tasks": [{"command": ["true"]}], "resources": [], "attributes": {"system": {"job": {"name": "named"}}}}
_VALID: dict[str, Any] = {"timestamp": 1.0, "name": "validate"}
_END = JobEvents(-1, [])


def response(*events: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": 1, "events": [_SUBMIT, *events], "jobspec": _SPEC, **more}).encode()


def encoded(value: Any) -> int:
    return len(msgspec.json.encode(value))


# ------------------------------------------------------------------------------------------------------ values


@given(_TEXTS, st.integers(3, 400))
def test_a_text_is_cut_by_the_bytes_that_it_takes_as_json(value: str, most: int) -> None:
    kept = untrusted.text(value, most)
    plain = value.replace("\0", "\ufffd").encode(errors="replace").decode()
    assert encoded(kept) - 2 <= most
    if encoded(plain) - 2 <= most:
        assert kept == plain
    else:
        assert kept.endswith("…")
        assert plain.startswith(kept[:-1])
        assert encoded(plain[: len(kept)]) - 2 > most - len("…".encode()), "no more than necessary is cut"


@given(st.dictionaries(st.text("aé\x01", max_size=40), st.one_of(st.integers(), _TEXTS.filter(untrusted.is_text).map(lambda text: text.replace("\0", "")), st.lists(st.integers(), max_size=90)), max_size=12), st.integers(100, 2000))  # fmt: skip
def test_a_context_is_shortened_to_so_many_bytes(context: dict[str, Any], most: int) -> None:
    kept = untrusted.shortened(msgspec.json.encode(context), most)
    assert encoded(kept) <= most
    if encoded(context) <= most - 20:
        assert kept == context
    for name, value in kept.items():
        whole = context.get(name)
        assert value in (whole, "…") or (isinstance(whole, str) and whole.startswith(value[:-1]))
    assert kept.keys() == context.keys() or "…" in kept


def test_no_member_is_shortened_without_need() -> None:
    """A short value behind a long name takes less of the rest than a long value behind a short name."""
    context = {"": [1] * 17, "a" * 40: 1234567890}
    assert untrusted.shortened(msgspec.json.encode(context), encoded(context) + 20) == context


def test_small_members_of_a_large_context_are_kept() -> None:
    context = {"note": "n" * 10**6, "type": "cancel", "severity": 0, "list": [1] * 10**5, "odd": "\x01" * 10**5}
    kept = untrusted.shortened(msgspec.json.encode(context), 16 * 1024)
    assert list(kept) == list(context)
    assert (kept["type"], kept["severity"], kept["list"]) == ("cancel", 0, "…")
    assert sum(value.endswith("…") for value in (kept["note"], kept["odd"])) == 2
    assert [untrusted.shortened(raw, 100) for raw in (b"[1]", b"5", b"", b"{")] == [{}] * 4


def test_a_job_is_small_for_any_submit() -> None:
    """A control character takes six bytes as JSON."""
    long = "\x01" * 100_000
    system = dict.fromkeys(("cwd", "queue", "project", "bank"), long) | {"job": {"name": long}}
    spec = {"tasks": [{"command": [long, *["\x02"] * 20_000]}], "resources": [], "attributes": {"system": system}}
    events = [Event(1.0, "submit", {"userid": 0}), *(Event(2.0, "dependency-add", {"description": f"{n}{long}"}) for n in range(100))]  # fmt: skip
    item = JobEvents(1, [*events, Event(3.0, "exception", {"type": long, "note": long, "severity": 0}), Event(4.0, "clean")], jobspec=spec)  # fmt: skip
    record = fold.new_record(item)
    assert record
    fold.extend(record, item)
    assert encoded(record.job) < 64 * 1024
    assert record.job.dependencies
    assert "dependency-add" in record.faults.take()


# ---------------------------------------------------------------------------------------------------- responses


def _keys() -> dict[str, Any]:
    return {f"k{number}": {} for number in range(200_000)}


_DEEP = b"[" * 70 + b"]" * 70
_LARGE: dict[str, Callable[[], bytes]] = {
    "keys": lambda: response(jobspec={**_SPEC, "more": _keys()}),
    "one branch that is deep": lambda: response(jobspec={**_SPEC, "more": 7}).replace(b"7", b"[%b,%b]" % (_DEEP, b",".join([b"[]"] * 1_000_000))),
    "branches": lambda: response(jobspec={**_SPEC, "more": 7}).replace(b"7", b"[%b]" % b",".join([_DEEP] * 20_000)),
    "R with a graph": lambda: response(R={"version": 1, "execution": {"R_lite": [{"rank": "0-3", "children": {"core": "0-7"}}], "nodelist": ["n[0-3]"]}, "scheduling": _keys()}),
    "an update": lambda: response({"timestamp": 2.0, "name": "jobspec-update", "context": {"attributes.system.x": _keys()}}),
}  # fmt: skip


@pytest.mark.parametrize("what", _LARGE)
def test_megabytes_are_read_for_a_few_members(what: str) -> None:
    """This takes less time than to create objects of all of them, which no code does."""
    text = _LARGE[what]()
    began = time.thread_time()
    whole = json.loads(text)
    took = time.thread_time() - began
    began = time.thread_time()
    found = journal.decode(text)
    assert time.thread_time() - began < took
    assert [event.name for event in found.events] == [event["name"] for event in whole["events"]]
    assert found.jobspec
    assert encoded(found) < 64 * 1024
    assert found.jobspec["attributes"] == _SPEC["attributes"]
    assert found.jobspec["tasks"] == _SPEC["tasks"]
    assert (found.R or {}).get("execution") == whole.get("R", {}).get("execution")
    assert set(found.faults) == {"R with a graph": set(), "an update": {"jobspec-update"}}.get(what, {"jobspec"})


def test_deeper_than_python_can_parse() -> None:
    """As deep as Flux accepts it: only that branch is lost."""
    branch = b"[" * 2000 + b"]" * 2000
    text = response(_MEMO, jobspec={**_SPEC, "more": 7}).replace(
        b"7", b'{"deep":%b,"flat":"%b"}' % (branch, b"[" * 10**5)
    )
    found = journal.decode(text)
    assert found.jobspec
    assert found.jobspec["more"]["flat"] == "[" * 10**5
    assert not untrusted.too_deep(found.jobspec["more"])
    assert found.jobspec["attributes"] == _SPEC["attributes"]


def _height(value: Any) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max((_height(each) for each in (value.values() if isinstance(value, dict) else value)), default=0)


def _expected(value: Any, level: int = 1) -> Any:
    if not isinstance(value, dict | list):
        return value
    if level == untrusted.DEPTH // 2 and level - 1 + _height(value) >= untrusted.DEPTH:
        return None
    if isinstance(value, dict):
        return {name: _expected(each, level + 1) for name, each in value.items()}
    return [_expected(each, level + 1) for each in value]


_ODD = st.sampled_from([1, None, 'a[{"\\', "]}", "", "\\"])
_SMALL = st.one_of(_ODD, st.lists(_ODD, max_size=3), st.dictionaries(st.sampled_from(['"[', "}", "a"]), _ODD, max_size=2))  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), _SMALL), min_size=20, max_size=90), _SMALL)
def test_values_that_are_nested_too_deeply_become_null(levels: list[tuple[bool, Any]], beside: Any) -> None:
    value: Any = []
    for listed, other in levels:
        value = [other, value] if listed else {"[": value, "b": other}
    value = [beside, value, {"again": value}, beside]
    assert json.loads(depth.limited(json.dumps(value).encode())) == _expected(value)


# ----------------------------------------------------------------------------------------------------- eventlogs


@pytest.fixture
async def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A feed with a store, as a function that processes a journal response."""
    monkeypatch.setattr("sidecar.journal.feed._GATHER", 0)
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    feed = Feed(store, Instruments())
    feed.start()

    async def push(text: bytes) -> tuple[Store, Tail]:
        for item in (JournalBegin("i"), journal.decode(text), _END):
            feed.push(item)
        while not feed.caught_up:
            await asyncio.sleep(0.001)
        return store, feed.tail

    yield push
    await feed.close()
    await store.close()


Push = Callable[[bytes], Any]


async def test_a_history_of_large_events_is_small(stored: Push) -> None:
    store, tail = await stored(response(_VALID, *[_MEMO] * 120))
    found = await entries(store, 1)
    assert [each.name for each in found] == ["submit", "validate", *["memo"] * 120]
    context = msgspec.json.decode(found[-1].context)
    assert context["few"] == 1
    assert context["k"].endswith("m…")
    assert max(len(each.context) for each in found) <= 16 * 1024
    after, read = 0, 0
    while after < store.position:
        for source in (tail, Tail(store)):  # from memory, and from the store
            logged, upto = await source.read(after)
            assert logged
            assert sum(len(each.json) for each in logged) <= 160 * 1024
        read += sum(each.count for each in logged)
        after = upto
    assert read == store.position == 122


async def test_events_in_any_number_are_read_in_parts(stored: Push) -> None:
    number = 20_000
    store, tail = await stored(response(_VALID, *({"timestamp": 2.0 + n, "name": "urgency", "context": {"urgency": n % 31}} for n in range(number))))  # fmt: skip
    assert [each.timestamp for each in await entries(store, 1)] == [1.0, 1.0, *(2.0 + n for n in range(number))]
    logged = await store.events_between(0, store.position, 10**6)
    assert sum(len(each.json) for each in logged) <= 160 * 1024
    assert tail.size > sum(2 * len(each.json) for each in logged), "including their rendered form"
    first, between, last = await store.eventlog_ends(1, 50)
    assert [each.timestamp for each in (*first, *last)] == [1.0, 1.0, *(2.0 + n for n in (*range(48), *range(number - 50, number)))]  # fmt: skip
    assert between == number + 2 - 100
    first, between, last = await store.eventlog_ends(1, 10_001)
    assert (len(first), between, last) == (number + 2, 0, [])


async def test_a_row_of_an_earlier_version_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Earlier versions wrote rows of any size, with contexts of up to a megabyte."""
    monkeypatch.setattr(batch, "event_rows", lambda entries: [(len(entries), msgspec.json.encode(entries))])
    store = Store(tmp_path / "s.sqlite")
    await store.open()
    item = JobEvents(1, [Event(1.0, "submit"), *(Event(2.0 + n, "memo", {"k": "m" * 100_000}) for n in range(50))])
    record = fold.new_record(item)
    assert record
    written = Batch(0)
    written.append(record.job, fold.extend(record, item))
    await store.write([batch.job_row(record)], written.logged)
    assert len(written.logged) == 1
    parts, after = [], 0
    while logged := await store.events_between(after, store.position, 100):
        parts.append(sum(len(each.json) for each in logged))
        positions = [position for each in logged for position, _ in each.entries(0)]
        assert positions == list(range(after + 1, logged[-1].position + 1))
        after = logged[-1].position
    assert after == 51
    assert max(parts) <= 160 * 1024
    assert len(await entries(store, 1)) == 51
    await store.close()


async def test_the_most_severe_of_many_exceptions_is_restored(stored: Push) -> None:
    raised = [{"timestamp": 2.0 + n, "name": "exception", "context": {"type": f"t{n}", "severity": 7 - n % 8, "note": "n" * 3000}} for n in range(500)]  # fmt: skip
    store, _ = await stored(response(_VALID, *raised))
    found = [msgspec.json.decode(each.context) for each in await store.exceptions(1)]
    assert [each["severity"] for each in found] == [7, 6, 5, 4, 3, 2, 1, 0]
    assert found[-1]["type"] == "t7"


async def test_a_table_keeps_only_what_it_shows_of_large_jobs(stored: Push) -> None:
    store, _ = await stored(response(_VALID, jobspec={**_SPEC, "tasks": [{"command": ["x" * 10_000]}]}))
    assert await store.lists.table(Search(length=10), Filter(), lambda raw: msgspec.json.decode(raw)["name"]) == [
        "named"
    ]


def test_a_value_that_cannot_be_encoded_affects_only_its_entry() -> None:
    item = JobEvents(1, [Event(1.0, "submit"), Event(2.0, "memo", {"a": float("nan"), "b": 10**30, "c": "\ud800"})])
    record = fold.new_record(item)
    assert record
    written = Batch(0)
    written.append(record.job, fold.extend(record, item))
    [logged] = written.logged
    contexts = [msgspec.json.decode(entry.context) for _, entry in logged.entries(0)]
    assert contexts == [{}, {"a": None, "b": None, "c": "?"}]
