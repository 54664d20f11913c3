"""The server is killed at random moments under load: no job and no event is lost or duplicated."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.flux.lives import Lives, check_metrics, flux_eventlogs, flux_jobs, plain
from tests.support.harness import PLAIN, Broker, Server, eventually
from tests.support.sse import Reader

Start = Callable[[Any], Any]

# Number of kills; on an idle machine a round takes one and a half seconds.
ROUNDS = int(os.environ.get("KILL_ROUNDS", "20"))

_LINES = 20


class Client(threading.Thread):
    """Submit one request after another, each until there is a response."""

    def __init__(self, lives: Lives, name: str, stop: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._lives = lives
        self._stop_requested = stop
        self._http = httpx.Client(verify=PLAIN, limits=httpx.Limits(max_keepalive_connections=0))
        self.jobids: dict[str, set[int]] = defaultdict(set)
        """All job IDs in responses, by idempotency key."""
        self.repeated = 0
        self.replayed = 0
        self.faults: list[str] = []

    def run(self) -> None:
        number = 0
        try:
            while not self._stop_requested.is_set() and not self.faults:
                self.work(f"{self.name}-{number}")
                number += 1
        except Exception as exc:
            self.faults.append(f"{self.name}: {exc!r}")
            raise

    def work(self, key: str) -> None:
        raise NotImplementedError

    def post(self, path: str, *, repeat: tuple[int, ...] = (409, 503), **arguments: Any) -> httpx.Response:
        """Send a request until there is a response, from any server."""
        while True:
            try:
                response = self._http.post(f"{self._lives.url()}{path}", timeout=60, **arguments)
            except httpx.TransportError:
                self.repeated += 1
                time.sleep(0.02)  # as any client does before a retry
                continue
            if response.status_code not in repeat:
                return response
            self.repeated += 1
            time.sleep(0.02)

    def close(self) -> None:
        self.join(60)
        self._http.close()
        assert not self.is_alive(), f"{self.name} never got a response"
        assert not self.faults


class Single(Client):
    """Submit one job per request, and cancel some."""

    def work(self, key: str) -> None:
        job = {"command": "true", "urgency": 0, "name": key}
        response = self.post("/v1/jobs/submit", json=job, headers={"Idempotency-Key": key})
        if response.status_code != 200:
            self.faults.append(f"{key}: {response.text}")
            return
        self.replayed += "Idempotent-Replayed" in response.headers
        self.jobids[key].add(response.json()["id"])
        if key.endswith("3"):
            cancelled = self.post(f"/v1/jobs/{response.json()['id']}/cancel", repeat=(503,))
            if cancelled.status_code not in (200, 409):  # a server that was killed may have cancelled it
                self.faults.append(f"cancel {key}: {cancelled.text}")


class Many(Client):
    """Submit many jobs per request; repeat lines without a result, and those to be retried."""

    def work(self, key: str) -> None:
        body = b"".join(
            json.dumps({"command": "true", "urgency": 0, "name": f"{key}:{line}"}).encode() + b"\n"
            for line in range(1, _LINES + 1)
        )
        while not self.faults:
            seen = set()
            for result in self._results(key, body):
                line = f"{key}:{result['line']}"
                if result["status"] == 200:
                    seen.add(line)
                    self.replayed += result.get("replayed", False)
                    self.jobids[line].add(result["id"])
                elif result["status"] not in (409, 503):
                    self.faults.append(f"{line}: {result}")
            if len(seen) == _LINES:
                return
            self.repeated += 1
            time.sleep(0.02)

    def _results(self, key: str, body: bytes) -> list[dict[str, Any]]:
        """Return the results received, up to the end of the connection."""
        results: list[dict[str, Any]] = []
        headers = {"Idempotency-Key": key, "Content-Type": "application/x-ndjson"}
        try:
            with self._http.stream(
                "POST", f"{self._lives.url()}/v1/jobs/bulk", content=body, headers=headers, timeout=20
            ) as response:
                if response.status_code == 200:
                    results.extend(json.loads(line) for line in response.iter_lines())
                elif response.status_code not in (409, 503):
                    self.faults.append(f"{key}: {response.read().decode()}")
        except httpx.TransportError:
            pass
        return results


def _kill_under_load(lives: Lives, rounds: int, chance: random.Random) -> list[Client]:
    """Kill the server repeatedly while clients submit; return the clients, which have all their responses."""
    done = threading.Event()
    clients: list[Client] = [Single(lives, f"single{n}", done) for n in range(3)]
    clients += [Many(lives, f"bulk{n}", done) for n in range(2)]
    for client in clients:
        client.start()
    try:
        for _ in range(rounds):
            if chance.random() < 0.75:
                lives.server.ready()
                time.sleep(chance.uniform(0, 0.4))  # at a random moment, independent of requests
            else:
                time.sleep(chance.uniform(0, 2))  # before it listens, or before it has read its history
            lives.kill()
            lives.begin()
    finally:
        done.set()
    lives.server.ready()
    for client in clients:
        client.close()
    return clients


def _one_job_each(lives: Lives, clients: list[Client]) -> dict[int, dict[str, Any]]:
    """Compare the responses to clients with the jobs of Flux and the server's list; return Flux's jobs."""
    theirs = flux_jobs(lives.broker.uri)
    names = Counter(job["name"] for job in theirs.values())
    submitted = {key: ids for client in clients for key, ids in client.jobids.items()}
    assert names == dict.fromkeys(submitted, 1)
    assert {key: {job} for job, key in ((job, theirs[job]["name"]) for job in theirs)} == submitted
    listed = [job["id"] for job in lives.server.http.get("/v1/jobs").json()["jobs"]]
    assert listed == sorted(theirs, reverse=True)
    eventually(lambda: _only_held(lives.server), within=60, what="all but the held jobs ended")
    theirs = flux_jobs(lives.broker.uri)
    check_metrics(lives.server, theirs)
    return theirs


def _only_held(server: Server) -> bool:
    service = server.http.get("/v1/service").json()
    return bool(service["active_jobs"] == service["held_jobs"])


@pytest.mark.long
def test_killed_again_and_again(tmp_path: Path, started: Start, record_property: Callable[[str, object], None]) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    broker = started(Broker(tmp_path, cores=4)).running()
    lives = Lives(broker, tmp_path, started, "--store", str(tmp_path / "jobs.sqlite"))
    reader = Reader(lives.url, "/v1/events?after=0")
    reader.start()
    try:
        clients = _kill_under_load(lives, ROUNDS, random.Random(seed))
        theirs = _one_job_each(lives, clients)
        eventually(lambda: reader.last_id == lives.server.position() or reader.faults, within=60, what="all read")
    finally:
        reader.close()
    assert not reader.faults
    assert len({message.id for message in reader.messages}) == len(reader.messages)
    received = defaultdict(list)
    for message in reader.messages:
        received[message.data["id"]].append(plain(message.data))
    assert dict(received) == flux_eventlogs(broker.uri, list(theirs))
    print(
        f"{lives.number} lives, {len(theirs)} jobs, {len(reader.messages)} events over {reader.connections} connections, "
        f"{sum(c.repeated for c in clients)} requests repeated, {sum(c.replayed for c in clients)} replayed"
    )
    assert sum(c.repeated for c in clients) > 0


@pytest.mark.long
def test_killed_without_a_kept_store(tmp_path: Path, started: Start) -> None:
    """Each server has a new, empty store: idempotency keys are known from the instance alone."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    broker = started(Broker(tmp_path, cores=4)).running()
    lives = Lives(broker, tmp_path, started)
    clients = _kill_under_load(lives, max(3, ROUNDS // 2), random.Random(seed))
    _one_job_each(lives, clients)
    assert lives.end(signal.SIGTERM) == 0
