"""The jobs that have not ended, for any order of the responses to submits and the events."""

from __future__ import annotations

from sidecar.domain.model import Event, JobEvents, JournalBegin
from sidecar.journal.active_jobs import ActiveJobs

END = JobEvents(-1, [])


def events(job: int, *names: str) -> JobEvents:
    return JobEvents(job, [Event(1.0, name) for name in names])


def test_history_and_live() -> None:
    jobs = ActiveJobs()
    assert not jobs.complete
    for item in (JournalBegin("i"), events(1, "submit", "alloc", "clean"), events(2, "submit", "alloc")):
        jobs.push(item)
    assert not jobs.complete
    jobs.push(END)
    assert jobs.complete
    assert len(jobs) == 1
    for item in (
        events(3, "submit"),
        events(2, "finish"),
        events(2, "clean"),
        events(2, "memo"),
        events(3, "invalidate"),
    ):
        jobs.push(item)
    assert len(jobs) == 0


def test_accepted_before_and_after_its_events() -> None:
    jobs = ActiveJobs()
    jobs.push(JournalBegin("i"))
    jobs.push(END)
    jobs.note_accepted(1)
    assert len(jobs) == 1
    jobs.push(events(1, "submit"))
    assert len(jobs) == 1
    jobs.push(events(1, "clean"))
    assert len(jobs) == 0
    for item in (events(2, "submit"), events(2, "clean"), events(3, "submit")):
        jobs.push(item)
    for job in (2, 3):  # the responses to their submits come last
        jobs.note_accepted(job)
    assert len(jobs) == 1


def test_another_history() -> None:
    """Jobs accepted before it and not in it are forgotten; those accepted meanwhile are not."""
    jobs = ActiveJobs()
    for item in (JournalBegin("i"), END, events(1, "submit")):
        jobs.push(item)
    jobs.note_accepted(2)
    jobs.push(JournalBegin("i"))
    assert not jobs.complete
    jobs.note_accepted(3)
    jobs.push(END)
    assert jobs.complete
    assert len(jobs) == 1
    jobs.push(events(3, "submit", "clean"))
    assert len(jobs) == 0


def test_an_interrupted_journal() -> None:
    """The jobs are incomplete until the end of the next history, whatever was still in flight."""
    jobs = ActiveJobs()
    jobs.push(JournalBegin("i"))
    jobs.interrupted()
    jobs.push(END)
    assert not jobs.complete
    jobs.push(JournalBegin("i"))
    assert not jobs.complete
    jobs.push(END)
    assert jobs.complete
