"""A broker that keeps its connections and sends nothing for ten seconds: SIGSTOP, then SIGCONT."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from tests.flux.lives import flux_jobs
from tests.support.harness import Broker, Server, beside, eventually
from tests.support.sse import Reader

Start = Callable[[Any], Any]

_SILENT = 10.0
#: Seconds within which every command gets a response, whatever the broker does.
SOON = 2.0


def test_ten_seconds_of_silence(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path, "--heartbeat", "0.5")).ready()
    held = server.submit("true", urgency=0, name="held")
    running = server.submit("sleep 600")
    server.state(running, "RUN")
    reader = Reader(lambda: server.url, "/v1/events")
    reader.start()
    eventually(lambda: reader.connections == 1)

    broker.signal(signal.SIGSTOP)
    begin = time.monotonic()
    late: dict[str, Any] = {}
    first = threading.Thread(target=_first_command, args=(server.url, late))
    first.start()  # sent before the silence can be detected
    first.join(60)
    assert late["response"].status_code == 503
    assert server.seconds(late["response"]) < SOON
    for path, body in (
        ("/v1/jobs/submit", {"command": "true"}),
        (f"/v1/jobs/{held}/cancel", {}),
        (f"/v1/jobs/{held}/urgency", {"urgency": 5}),
        (f"/v1/jobs/{running}/signal", {"signal": "USR1"}),
        ("/v1/queues/default/stop", {}),
        ("/v1/nodes/0/drain", {}),
        ("/v1/jobs/cancel", {"name": "held"}),
    ):
        response = server.http.post(path, json=body)
        assert response.status_code == 503, (path, response.text)
        assert int(response.headers["Retry-After"]) >= 1
        assert server.seconds(response) < SOON
    assert server.http.post("/v1/jobs/bulk", content='{"command": "true"}\n').status_code == 503
    while time.monotonic() - begin < _SILENT:
        assert len(server.http.get("/v1/jobs").json()["jobs"]) == 2
        assert server.job(held)["state"] == "SCHED"
        assert server.http.get("/v1/jobs/search", params={"query": "held"}).json()["recordsMatched"] == 1
        assert server.http.get("/livez").status_code == 200
        assert server.http.get(f"/v1/jobs/{held}", params={"wait": 0.2}).headers["Flux-Instance-State"] == "lost"

    broker.signal(signal.SIGCONT)
    server.ready()
    # A submit without a response may have been accepted: the job exists once, and a repeat returns it.
    headers = {"Idempotency-Key": "sent-into-silence"}

    def again() -> httpx.Response | None:
        response = server.http.post("/v1/jobs/submit", json=_JOB, headers=headers)
        return response if response.status_code == 200 else None

    job = eventually(again).json()["id"]
    named = server.http.get("/v1/jobs", params={"name": _JOB["name"]}).json()["jobs"]
    assert [each["id"] for each in named] == [job]
    assert server.http.post(f"/v1/jobs/{held}/cancel").status_code == 200
    server.ended(held)
    eventually(lambda: any(m.data["id"] == held and m.data["name"] == "clean" for m in reader.messages))
    assert any(message.data["id"] == job for message in reader.messages)
    assert reader.connections == 1, "the stream survived the silence"
    reader.close()
    assert reader.heartbeats > 5


_JOB = {"command": "true", "urgency": 0, "name": "into-silence"}


def _first_command(url: str, result: dict[str, Any]) -> None:
    result["response"] = httpx.post(
        f"{url}/v1/jobs/submit", json=_JOB, headers={"Idempotency-Key": "sent-into-silence"}, timeout=60
    )


def _held(name: str) -> dict[str, Any]:
    return {"command": "true", "urgency": 0, "name": name}


def _submit(server: Server, key: str) -> httpx.Response:
    return server.http.post("/v1/jobs/submit", json=_held(key), headers={"Idempotency-Key": key})


def _bulk(server: Server, key: str, lines: int) -> httpx.Response:
    body = "".join(json.dumps(_held(f"{key}:{line}")) + "\n" for line in range(1, lines + 1))
    headers = {"Idempotency-Key": key, "Content-Type": "application/x-ndjson"}
    return server.http.post("/v1/jobs/bulk", content=body, headers=headers)


def _results(response: httpx.Response) -> list[dict[str, Any]]:
    """Return the results of a bulk submit; its status if it was refused as a whole."""
    if response.status_code != 200:
        return [{"status": response.status_code}]
    return [json.loads(line) for line in response.text.splitlines()]


def test_commands_that_are_accepted_late(tmp_path: Path, started: Start) -> None:
    """Submits, a bulk submit and a cancel take effect once, and repeats return their result; streams continue."""
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path, "--heartbeat", "0.5", "--lost-timeout", "60")).ready()
    known = _submit(server, "known").json()["id"]
    running = server.submit("sh -c 'echo started; sleep 600'", name="running")
    eventually(lambda: server.output(running) == ["started\n"])
    events = Reader(lambda: server.url, "/v1/events?after=0")
    output = Reader(lambda: server.url, f"/v1/jobs/{running}/output/stream")
    for reader in (events, output):
        reader.start()
        eventually(lambda reader=reader: reader.messages, what="the first message")  # type: ignore[misc]
    broker.signal(signal.SIGSTOP)
    continues = threading.Timer(_SILENT, broker.signal, [signal.SIGCONT])
    continues.start()
    # The first round is sent before the silence is detected, the second one after.
    commands: dict[str, Callable[[], Any]] = {
        "submit": lambda: _submit(server, "late"),
        "bulk": lambda: _bulk(server, "many", 50),
        "cancel": lambda: server.http.post(f"/v1/jobs/{known}/cancel"),
        "output": lambda: server.http.get(f"/v1/jobs/{running}/output"),
        "check": lambda: server.http.post("/v1/jobs/submit", json={**_held("dry"), "dry_run": True}),
        "environment": lambda: server.http.get(f"/v1/jobs/{known}/jobspec", params={"environment": "true"}),
    }
    unsent: set[str] = set()
    for _ in range(2):
        with ThreadPoolExecutor(len(commands)) as pool:
            responses = {name: pool.submit(command) for name, command in commands.items()}
        for name, future in responses.items():
            response = future.result()
            statuses = {each["status"] for each in _results(response)} if name == "bulk" else {response.status_code}
            assert statuses == {503}, name
            assert server.seconds(response) < SOON, name
            if "was not sent" in response.text:
                unsent.add(name)
            if name != "bulk":
                assert int(response.headers["Retry-After"]) >= 1
    # Reads continue, and report that they may be out of date.
    beats = [reader.heartbeats for reader in (events, output)]
    listed = server.http.get("/v1/jobs")
    assert {job["id"] for job in listed.json()["jobs"]} == {known, running}
    assert listed.headers["Flux-Instance-State"] == "lost"
    assert server.job(running)["state"] == "RUN"
    assert server.http.get("/readyz").status_code == 503
    for reader, before in zip((events, output), beats, strict=True):
        eventually(lambda reader=reader, before=before: reader.heartbeats >= before + 3, what="heartbeats")  # type: ignore[misc]
    assert continues.is_alive(), "everything above must happen while the broker is silent"
    continues.join()
    server.ready()
    # The cancel took effect late, and the jobs were accepted late: once, and their keys return them. A request that was
    # not sent, because the Flux thread was blocked, took no effect at all: it is repeated.
    if "cancel" in unsent:
        assert server.job(known)["state"] == "SCHED"
        server.http.post(f"/v1/jobs/{known}/cancel").raise_for_status()
    assert server.ended(known)["result"] == "CANCELED"
    late = eventually(lambda: (response := _submit(server, "late")).status_code == 200 and response)
    assert "submit" in unsent or late.headers["Idempotent-Replayed"] == "true"

    def replayed() -> list[dict[str, Any]] | None:
        results = _results(_bulk(server, "many", 50))
        return results if {result["status"] for result in results} == {200} else None

    results = eventually(replayed)
    assert "bulk" in unsent or all(result["replayed"] for result in results)
    names = {job["id"]: job["name"] for job in flux_jobs(broker.uri).values()}
    assert Counter(names.values()) == dict.fromkeys(
        ["known", "running", "late", *(f"many:{line}" for line in range(1, 51))], 1
    )
    assert names[late.json()["id"]] == "late"
    assert [names[result["id"]] for result in results] == [f"many:{line}" for line in range(1, 51)]
    # No stream has lost its connection or an event.
    server.http.post(f"/v1/jobs/{running}/cancel").raise_for_status()
    output.join(60)
    assert output.end["result"] == "CANCELED"
    eventually(lambda: events.last_id == server.position(), what="the last event")
    events.close()
    last = int(server.position().split("-")[1])
    assert [int(message.id.split("-")[1]) for message in events.messages] == list(range(1, last + 1))
    assert (events.connections, output.connections) == (1, 1)
    assert output.messages[0].data["data"] == "started\n"


def test_key_is_known_although_the_store_is_late(tmp_path: Path, started: Start) -> None:
    """While nothing can be written, a repeat returns its job, however many others were submitted after it."""
    store = tmp_path / "jobs.sqlite"
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path, "--store", str(store))).ready()
    with closing(sqlite3.connect(store)) as db:
        db.execute("BEGIN IMMEDIATE")
        first, *others = [_submit(server, key).json()["id"] for key in ("first", "other0", "other1", "other2")]
        assert server.http.get("/v1/jobs").status_code == 503, "a list without them would be wrong"
        assert _submit(server, "one more").status_code == 503, "no job is accepted that cannot be listed"
        again = _submit(server, "first")
        assert (again.status_code, again.json()["id"]) == (200, first)
        assert again.headers["Idempotent-Replayed"] == "true"
        db.rollback()
    eventually(lambda: len(server.http.get("/v1/jobs").json().get("jobs", ())) == 4, what="all four in the list")
    assert _submit(server, "first").json()["id"] == first
    assert sorted(flux_jobs(broker.uri)) == sorted([first, *others])
