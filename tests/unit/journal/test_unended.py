"""Which jobs have not ended, by what has been told: whichever order the submits' answers and the events come in."""

from __future__ import annotations

from sidecar.domain.model import Event, HistoryBegin, JobEvents
from sidecar.journal.unended import ActiveJobs

END = JobEvents(-1, [])


def told(job: int, *names: str) -> JobEvents:
    return JobEvents(job, [Event(1.0, name) for name in names])


def test_history_and_live() -> None:
    unended = ActiveJobs()
    assert not unended.known
    for item in (HistoryBegin("i"), told(1, "submit", "alloc", "clean"), told(2, "submit", "alloc")):
        unended.push(item)
    assert not unended.known
    unended.push(END)
    assert unended.known
    assert len(unended) == 1
    for item in (told(3, "submit"), told(2, "finish"), told(2, "clean"), told(2, "memo"), told(3, "invalidate")):
        unended.push(item)
    assert len(unended) == 0


def test_accepted_before_and_after_it_is_told() -> None:
    unended = ActiveJobs()
    unended.push(HistoryBegin("i"))
    unended.push(END)
    unended.accept(1)
    assert len(unended) == 1
    unended.push(told(1, "submit"))
    assert len(unended) == 1
    unended.push(told(1, "clean"))
    assert len(unended) == 0
    for item in (told(2, "submit"), told(2, "clean"), told(3, "submit")):
        unended.push(item)
    for job in (2, 3):  # their submits are answered after all that
        unended.accept(job)
    assert len(unended) == 1


def test_another_history() -> None:
    """What it does not tell of is not waited for; what is accepted meanwhile is."""
    unended = ActiveJobs()
    for item in (HistoryBegin("i"), END, told(1, "submit")):
        unended.push(item)
    unended.accept(2)
    unended.push(HistoryBegin("i"))
    assert not unended.known
    unended.accept(3)
    unended.push(END)
    assert unended.known
    assert len(unended) == 1
    unended.push(told(3, "submit", "clean"))
    assert len(unended) == 0


def test_a_journal_that_is_not_followed() -> None:
    """Nothing is known until the next history is whole, whatever was still on its way."""
    unended = ActiveJobs()
    unended.push(HistoryBegin("i"))
    unended.interrupted()
    unended.push(END)
    assert not unended.known
    unended.push(HistoryBegin("i"))
    assert not unended.known
    unended.push(END)
    assert unended.known
