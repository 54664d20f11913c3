"""Folding events to jobs. tests/flux compares the result with job-list of a real Flux."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.model import STATES, Event, Job, JobEvents
from sidecar.journal import fold
from sidecar.journal.record import Record

SPEC = {
    "resources": [{"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}],
    "tasks": [{"command": ["sleep", "1"], "slot": "task", "count": {"per_slot": 1}}],
    "attributes": {"system": {"duration": 60}},
    "version": 1,
}
R = {"execution": {"R_lite": [{"rank": "0-1", "children": {"core": "0-3"}}], "nodelist": ["n[0-1]"], "expiration": 9.0}}
SUBMIT = Event(1.0, "submit", {"userid": 0, "urgency": 16})
EVENTS = st.sampled_from(
    [
        ("validate", {}), ("depend", {}), ("priority", {"priority": 16}), ("alloc", {}), ("start", {}),
        ("exception", {"type": "cancel", "severity": 0, "note": ""}), ("exception", {"type": "x", "severity": 2, "note": "n"}),
        ("finish", {"status": 0}), ("finish", {"status": 256}), ("clean", {}), ("urgency", {"urgency": 31}),
        ("flux-restart", {}), ("memo", {"a": 1}), ("memo", {"a": None}), ("annotations", {"annotations": {"user": {}}}),
        ("jobspec-update", {"attributes.system.duration": 5}), ("resource-update", {"expiration": 7}), ("unknown", {}),
        ("dependency-add", {"description": "d"}), ("dependency-remove", {"description": "d"}),
    ]
)  # fmt: skip


def folded(*events: tuple[str, dict[str, object]], R: dict[str, Any] | None = None) -> Record:
    entries = [SUBMIT, *(Event(2.0 + i, name, dict(context)) for i, (name, context) in enumerate(events))]
    journal = JobEvents(7, entries, jobspec=msgspec.json.decode(msgspec.json.encode(SPEC)), R=R)
    record = fold.new_record(journal)
    assert record is not None
    fold.extend(record, journal)
    return record


@given(st.lists(EVENTS, max_size=15))
def test_any_eventlog_gives_a_job_that_can_be_written_and_read(events: list[tuple[str, dict[str, object]]]) -> None:
    record = folded(*events, R=R)
    assert record.job.state in STATES
    assert record.nevents == len([name for name, _ in events if name != "annotations"]) + 1
    assert msgspec.json.decode(msgspec.json.encode(record.job), type=Job) == record.job
    assert (record.job.result != "") == (record.job.state == "INACTIVE")


@given(st.lists(EVENTS, max_size=15), st.data())
def test_any_batching_gives_the_same_job(events: list[tuple[str, dict[str, object]]], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(events)))
    whole, parts = folded(*events, R=R), folded(*events[:cut], R=R)
    for index, (name, context) in enumerate(events[cut:], start=cut):
        fold.extend(parts, JobEvents(7, [Event(2.0 + index, name, dict(context))]))
    assert parts.job == whole.job


def test_the_most_severe_exception_counts() -> None:
    job = folded(
        ("exception", {"type": "warning", "severity": 3, "note": "first"}),
        ("exception", {"type": "timeout", "severity": 0, "note": "second"}),
        ("exception", {"type": "cancel", "severity": 0, "note": "third"}),
        ("clean", {}),
    ).job
    assert (job.exception.type, job.exception.note, job.result) == ("timeout", "second", "TIMEOUT")


def test_exit_code_zero_with_a_fatal_exception_is_a_failure() -> None:
    job = folded(("finish", {"status": 0}), ("exception", {"type": "x", "severity": 0, "note": ""}), ("clean", {})).job
    assert (job.success, job.result, job.returncode) == (False, "FAILED", 0)


def test_resources_come_from_R() -> None:
    job = folded(("alloc", {}), R=R).job
    assert (job.nnodes, job.ncores, job.ranks, job.nodelist, job.expiration) == (2, 8, "[0-1]", "n[0-1]", 9.0)


def test_events_without_a_submit_event_are_not_a_job() -> None:
    assert fold.new_record(JobEvents(1, [Event(1.0, "clean")])) is None
