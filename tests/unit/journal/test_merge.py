"""The journal from the active jobs on, and the history beside it, make the same store as the whole journal would."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain.model import Event, JobEvents, JournalBegin
from sidecar.instance.flux import journal
from sidecar.journal import history_fold
from sidecar.journal.feed import Feed
from sidecar.journal.history_frame import Frame
from sidecar.journal.history_order import in_order
from sidecar.journal.merge import HistoryPart
from sidecar.store import Filter, Store
from sidecar.store.known import read_only, stored_events
from sidecar.telemetry.instruments import Instruments
from tests.support.journal import END

_SLOT = {"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}
_SPEC = {
    "version": 1,
    "tasks": [{"command": ["true"]}],
    "resources": [_SLOT],
    "attributes": {"system": {"duration": 0}},
}
_RUNS = ("submit", "validate", "depend", "priority", "alloc", "start", "finish", "release", "free", "clean")
_CANCELED = ("submit", "validate", "depend", "priority", "exception", "clean")
_CONTEXTS: dict[str, dict[str, Any]] = {
    "submit": {"userid": 0, "urgency": 16},
    "priority": {"priority": 16},
    "finish": {"status": 256},
    "exception": {"type": "cancel", "severity": 0},
}


async def _never() -> tuple[int, Sequence[str]]:
    """Stand for a process whose frames the test delivers."""
    await asyncio.Event().wait()
    raise AssertionError


class Flux:
    """The job manager: eventlogs that grow, and the responses of its journal."""

    def __init__(self, kinds: Sequence[tuple[str, ...]]) -> None:
        self.logs = {
            number * 1000: [
                Event(number + place / 16, name, _CONTEXTS.get(name, {})) for place, name in enumerate(names)
            ]
            for number, names in enumerate(kinds, 1)
        }
        self.length = dict.fromkeys(self.logs, 0)

    def response(self, jobid: int, first: int, last: int) -> JobEvents:
        return JobEvents(jobid, self.logs[jobid][first:last], jobspec=_SPEC if first == 0 else None)

    def happen(self, jobid: int) -> JobEvents | None:
        """Append the next event of a job; return its live response."""
        place = self.length[jobid]
        if place == len(self.logs[jobid]):
            return None
        self.length[jobid] += 1
        return self.response(jobid, place, place + 1)

    def ended(self, jobid: int) -> bool:
        return self.length[jobid] == len(self.logs[jobid])

    def backlog(self, *, ended: bool) -> list[JobEvents]:
        """Return whole eventlogs: of the ended jobs, in no order, or of the active ones."""
        jobids = [jobid for jobid, length in self.length.items() if length and self.ended(jobid) == ended]
        return [self.response(jobid, 0, self.length[jobid]) for jobid in reversed(jobids)]


class Server:
    """A feed and its store; the test delivers both streams."""

    def __init__(self, path: Path, flux: Flux) -> None:
        self.path, self.flux = path, flux
        self.store = Store(path)
        self.frames: list[Frame] = []
        self.history_ended = False  # its last frame is delivered: the server starts no further process

    async def start(self) -> None:
        await self.store.open()
        self.feed = Feed(self.store, Instruments())
        self.feed.history.open = _never
        self.feed.start()
        self.connect()

    def connect(self) -> None:
        """Subscribe to the journal: its active jobs, and from now on each event."""
        self.feed.push(JournalBegin("i"))
        for item in [*self.flux.backlog(ended=False), END]:
            self.feed.push(item)
        self.frames.clear()
        self.history_ended = False

    async def read_history(self) -> None:
        """Read the history as the other process does, with a look at the store as it is now."""
        await self.live()
        if self.history_ended:
            return
        await self.feed.history.drained()
        texts = [
            msgspec.json.encode(each) for each in (*self.flux.backlog(ended=True), *self.flux.backlog(ended=False))
        ]
        with read_only(self.path) as db:
            ordered = in_order(filter(history_fold.has_end, texts))
            self.frames[:] = history_fold.frames(ordered, journal.decode, lambda jobids: stored_events(db, jobids))

    async def live(self) -> None:
        while not self.feed.live:
            await asyncio.sleep(0)

    async def deliver(self) -> None:
        """Deliver the next frame, in no relation to the progress of the live events."""
        if self.frames:
            await self.live()
            frame = self.frames.pop(0)
            self.history_ended = frame.complete
            await self.feed.history.put(frame)

    async def complete(self) -> None:
        while self.frames:
            await self.deliver()
        while not self.feed.caught_up:
            await asyncio.sleep(0)
        await self.feed.barrier.wait_stored()

    async def kill(self) -> None:
        """End at once: what is not written is lost."""
        await self.feed.history.stop()
        task = self.feed._task
        assert task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.store.close()

    async def content(self) -> dict[str, Any]:
        """Return all that is stored and counted, in a form that does not depend on the order of the events."""
        jobs = msgspec.json.decode(b"[%b]" % (await self.store.lists.page(Filter(), None, "full")).json)
        logs: dict[int, list[Any]] = defaultdict(list)
        after = 0
        while some := await self.store.events_between(after, 2**62, 1000):
            for logged in some:
                logs[logged.jobid] += [(entry.timestamp, entry.name) for _, entry in logged.entries(0)]
            after = some[-1].position
        totals = {cell: [pytest.approx(value) for value in values] for cell, values in self.feed.counts.totals.items()}
        return {
            "jobs": {job["id"]: {**job, "runtime": job["runtime"] if job["state"] != "RUN" else ...} for job in jobs},
            "logs": dict(logs),
            "totals": {cell: values for cell, values in totals.items() if any(value != 0 for value in values)},
            "groups": +Counter(self.feed.counts.groups),
            "active": self.feed.active_count,
        }


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("happen"), st.integers(0, 7), st.integers(1, 10)),
        st.tuples(st.just("read history")),
        st.tuples(st.just("deliver")),
        st.tuples(st.just("yield"), st.integers(0, 30)),
        st.tuples(st.just("connect")),
        st.tuples(st.just("kill")),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([_RUNS, _CANCELED]), min_size=1, max_size=8), _STEPS)
def test_any_order_of_history_and_live_events(kinds: list[tuple[str, ...]], steps: list[tuple[Any, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory:
        patch.setattr("sidecar.journal.feed._GATHER", 0)
        patch.setattr("sidecar.journal.history_fold._RESPONSES", 2)
        asyncio.run(_compare(Path(directory), Flux(kinds), steps))


async def _compare(directory: Path, flux: Flux, steps: list[tuple[Any, ...]]) -> None:
    server = Server(directory / "s.sqlite", flux)
    await server.start()
    for name, *arguments in steps:
        if name == "happen":
            for item in _events(flux, *arguments):
                server.feed.push(item)
        elif name == "read history":
            await server.read_history()
        elif name == "deliver":
            await server.deliver()
        elif name == "yield":
            for _ in range(arguments[0]):
                await asyncio.sleep(0)
        elif name == "connect":
            server.connect()
        elif name == "kill":
            await server.kill()
            server = Server(directory / "s.sqlite", flux)
            await server.start()
    await server.read_history()  # the process that was started last
    await server.complete()
    found = await server.content()
    await server.kill()
    assert found == await _reference(directory, flux)


def _events(flux: Flux, which: int, number: int) -> Iterator[JobEvents]:
    jobids = list(flux.logs)
    for _ in range(number):
        if item := flux.happen(jobids[which % len(jobids)]):
            yield item


async def _reference(directory: Path, flux: Flux) -> dict[str, Any]:
    """Return the content of a store to which the journal has brought all jobs."""
    reference = Server(directory / "reference.sqlite", flux)
    await reference.store.open()
    reference.feed = Feed(reference.store, Instruments())
    reference.feed.start()
    reference.feed.push(JournalBegin("i"))
    for item in [*flux.backlog(ended=True), *flux.backlog(ended=False), END]:
        reference.feed.push(item)
    await reference.complete()
    content = await reference.content()
    await reference.kill()
    return content


async def test_a_disk_that_is_full_while_the_history_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost; live events go on afterwards. SQLite's limit of pages stands for the disk."""
    monkeypatch.setattr("sidecar.journal.retry._INTERVAL", 0.01)
    monkeypatch.setattr("sidecar.journal.history_fold._RESPONSES", 100)
    flux = Flux([_RUNS] * 1000)
    for jobid in flux.logs:
        list(_events(flux, list(flux.logs).index(jobid), len(_RUNS) if jobid > 1000 else 4))
    server = Server(tmp_path / "s.sqlite", flux)
    await server.start()
    await server.read_history()
    await server.deliver()
    while not await server.store.counts.jobs():
        await asyncio.sleep(0)
    with closing(sqlite3.connect(tmp_path / "s.sqlite")) as db:
        [pages] = db.execute("PRAGMA page_count").fetchone()
    await server.store.connections.write(lambda db: db.execute(f"PRAGMA max_page_count = {pages}"))
    delivering = asyncio.create_task(server.complete())
    while not server.feed.problem:
        await asyncio.sleep(0)
    for item in _events(flux, 0, len(_RUNS)):
        server.feed.push(item)
    await server.store.connections.write(lambda db: db.execute("PRAGMA max_page_count = 1000000"))
    await delivering
    assert await server.content() == await _reference(tmp_path, flux)
    await server.kill()


def test_a_job_that_cannot_be_processed_does_not_affect_others() -> None:
    texts = [
        json.dumps(
            {
                "id": number,
                "events": [{"timestamp": 1.0, "name": name} for name in ("submit", "validate", "clean")],
                "jobspec": {},
            }
        ).encode()
        for number in (1, 2)
    ]
    [frame] = history_fold.frames(texts, journal.decode, lambda jobids: {})
    frame.jobs.insert(1, msgspec.Raw(b"\x90"))
    part = HistoryPart(frame, 0, lambda jobid: False)
    assert [row.id for row in part.rows] == [1, 2]
    [(jobid, kind, detail)] = part.faults
    assert (jobid, kind) == (-1, "history")
    assert "cannot be processed" in detail
