"""After any sequence of commands, restarts and broken streams, all interfaces show the same jobs."""

from __future__ import annotations

import itertools
import json
import signal
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.flux.lives import Lives, check_metrics, flux_eventlogs, flux_jobs, plain
from tests.support.harness import Broker, eventually
from tests.support.sse import Reader

Start = Callable[[Any], Any]

_COMMANDS = st.sampled_from(["true", "false", "sleep 0.05", "no-such-program"])
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), _COMMANDS, st.sampled_from([0, 16])),
        st.tuples(st.just("bulk"), st.integers(1, 8), st.sampled_from([0, 16])),
        st.tuples(st.just("submit without key"), _COMMANDS, st.sampled_from([0, 16])),
        st.tuples(st.just("bulk with one key"), st.integers(1, 8), st.sampled_from([0, 16])),
        st.tuples(st.just("repeat"), st.integers(0, 99)),
        st.tuples(st.just("repeat bulk"), st.integers(0, 99)),
        st.tuples(st.just("reuse"), st.integers(0, 99)),
        st.tuples(st.just("cancel"), st.integers(0, 99)),
        st.tuples(st.just("cancel by name"), st.integers(0, 99)),
        st.tuples(st.just("cancel all")),
        st.tuples(st.just("restart"), st.sampled_from([signal.SIGTERM, signal.SIGKILL])),
        st.tuples(st.just("break off")),
    ),
    min_size=3,
    max_size=14,
)


class World:
    """One instance for all examples, its servers, and a reader that reconnects whenever its stream breaks."""

    def __init__(self, tmp_path: Path, started: Start) -> None:
        broker = started(Broker(tmp_path, cores=4)).running()
        store = str(tmp_path / "jobs.sqlite")
        self.lives = Lives(broker, tmp_path, started, "--store", store, "--no-stop-on-signal")
        self.lives.server.ready()
        self.reader = Reader(self.lives.url, "/v1/events?after=0")
        self.reader.start()
        self.requests: list[tuple[str, dict[str, Any], int]] = []
        self.bulks: list[tuple[str, str, list[int]]] = []
        self.without_key: list[int] = []
        self._numbers = itertools.count()

    def step(self, what: str, *arguments: Any) -> None:
        getattr(self, f"do_{what.replace(' ', '_')}")(*arguments)

    def do_submit(self, command: str, urgency: int) -> None:
        key = f"key-{next(self._numbers)}"
        body = {"command": command, "urgency": urgency, "name": key}
        self.requests.append((key, body, self._post(key, body)))

    def do_bulk(self, number: int, urgency: int) -> None:
        keys = [f"key-{next(self._numbers)}" for _ in range(number)]
        lines: list[dict[str, Any]] = [{"command": "true", "urgency": urgency, "name": key} for key in keys]
        content = "".join(json.dumps({**line, "idempotency_key": line["name"]}) + "\n" for line in lines)
        response = self.lives.server.http.post("/v1/jobs/bulk", content=content)
        results = [json.loads(line) for line in response.text.splitlines()]
        assert [each["status"] for each in results] == [200] * number, results
        self.requests += [(key, line, each["id"]) for key, line, each in zip(keys, lines, results, strict=True)]

    def do_submit_without_key(self, command: str, urgency: int) -> None:
        body: dict[str, Any] = {"command": command, "urgency": urgency, "name": f"free-{next(self._numbers)}"}
        self.without_key.append(self.lives.server.submit(**body))

    def do_bulk_with_one_key(self, number: int, urgency: int) -> None:
        key = f"bulk-{next(self._numbers)}"
        names = [f"{key}:{line}" for line in range(1, number + 1)]
        lines: list[dict[str, Any]] = [{"command": "true", "urgency": urgency, "name": name} for name in names]
        content = "".join(json.dumps(line) + "\n" for line in lines)
        jobs = self._bulk(key, content)
        self.bulks.append((key, content, jobs))
        self.requests += list(zip(names, lines, jobs, strict=True))

    def do_repeat_bulk(self, which: int) -> None:
        if self.bulks:
            key, content, jobs = self.bulks[which % len(self.bulks)]
            assert self._bulk(key, content) == jobs

    def _bulk(self, key: str, content: str) -> list[int]:
        response = self.lives.server.http.post("/v1/jobs/bulk", content=content, headers={"Idempotency-Key": key})
        return [json.loads(line)["id"] for line in response.text.splitlines()]

    def do_reuse(self, which: int) -> None:
        """Use a key for another request, which must change nothing."""
        if self.requests:
            key, body, _ = self.requests[which % len(self.requests)]
            other = {**body, "command": "hostname"}
            response = self.lives.server.http.post("/v1/jobs/submit", json=other, headers={"Idempotency-Key": key})
            assert response.status_code == 422, response.text

    def do_cancel_by_name(self, which: int) -> None:
        if self.requests:
            name = self.requests[which % len(self.requests)][1]["name"]
            response = self.lives.server.http.post("/v1/jobs/cancel", json={"name": name})
            assert response.status_code == 200, response.text
            assert response.json()["matched"] <= 1

    def do_repeat(self, which: int) -> None:
        if self.requests:
            key, body, job = self.requests[which % len(self.requests)]
            assert self._post(key, body) == job

    def _post(self, key: str, body: dict[str, Any]) -> int:
        response = self.lives.server.http.post("/v1/jobs/submit", json=body, headers={"Idempotency-Key": key})
        assert response.status_code == 200, response.text
        return int(response.json()["id"])

    def do_cancel(self, which: int) -> None:
        if self.requests:
            job = self.requests[which % len(self.requests)][2]
            assert self.lives.server.http.post(f"/v1/jobs/{job}/cancel").status_code in (200, 409)

    def do_cancel_all(self) -> None:
        response = self.lives.server.http.post("/v1/jobs/cancel", json={"state": "active"})
        assert response.status_code == 200, response.text

    def do_restart(self, number: signal.Signals) -> None:
        self.lives.end(number)
        self.lives.begin().ready()

    def do_break_off(self) -> None:
        self.reader.break_off()

    def agree(self) -> None:
        """Compare list, search, single reads, events and Flux's own jobs."""
        http = self.lives.server.http
        # The last commands may still be in progress: wait until all but the held jobs have ended, in Flux and here.
        reference = eventually(self._at_rest, what="all but the held jobs ended")
        listed = http.get("/v1/jobs", params={"details": "true"}).json()
        assert listed.keys() == {str(job) for job in reference}
        for job, expected in reference.items():
            our = listed[str(job)]
            assert {name: our.get(name) for name in expected} == expected
            assert our["result"] == expected.get("result", "")
        plain_list = http.get("/v1/jobs").json()
        assert [job["id"] for job in plain_list["jobs"]] == sorted(reference, reverse=True)
        matches = http.get("/v1/jobs/search").json()
        for job in matches["data"]:
            assert job == listed[str(job["id"])]
        assert len(matches["data"]) == len(listed)
        assert matches["recordsTotal"] == len(reference)
        submitted = [*(job for _, _, job in self.requests), *self.without_key]
        assert sorted(reference) == sorted(submitted), "one job for each key, and for each submit without one"
        for job in sorted(reference)[-10:]:
            assert self.lives.server.job(job) == listed[str(job)]
        self._agree_on_events(sorted(reference))
        check_metrics(self.lives.server, reference)

    def _at_rest(self) -> dict[int, dict[str, Any]] | None:
        reference = flux_jobs(self.lives.broker.uri)
        states = {job["id"]: job["state"] for job in self.lives.server.http.get("/v1/jobs").json()["jobs"]}
        held = {job for job, state in states.items() if state == "SCHED" and reference[job].get("urgency") == 0}
        at_rest = all(state == "INACTIVE" for job, state in states.items() if job not in held)
        return (
            reference if at_rest and states == {job: expected["state"] for job, expected in reference.items()} else None
        )

    def _agree_on_events(self, jobs: list[int]) -> None:
        if jobs:
            eventually(self._all_read, what="the last event")
        received: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for message in self.reader.messages:
            received[message.data["id"]].append(plain(message.data))
        logs = flux_eventlogs(self.lives.broker.uri, jobs)
        assert received == logs, "each event once, in order"
        assert len({message.id for message in self.reader.messages}) == len(self.reader.messages)
        for job in jobs[-10:]:
            events = self.lives.server.http.get(f"/v1/jobs/{job}/eventlog").json()["events"]
            assert [plain(event) for event in events] == logs[job]
        assert not self.reader.faults

    def _all_read(self) -> bool:
        """Return whether the reader has read up to the list's position, which may lag behind the list for a moment."""
        return bool(self.reader.messages) and self.reader.messages[-1].id == self.lives.server.position()


def test_all_interfaces_agree(tmp_path: Path, started: Start) -> None:
    world = World(tmp_path, started)

    @settings(
        max_examples=15, deadline=None, database=None, print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(_STEPS)
    def run(steps: list[tuple[Any, ...]]) -> None:
        for step in steps:
            world.step(*step)
        world.agree()

    run()
    world.reader.close()
