"""A broker that keeps its connections and says nothing for ten seconds: stopped, and told to go on."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.harness import Broker, beside, eventually
from tests.sse import Reader

Start = Callable[[Any], Any]

_SILENT = 10.0


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
    first.start()  # sent before anybody can know that there will be no answer
    first.join(30)
    assert (late["status"], late["seconds"] < 2) == (503, True), late
    for path, body in (
        ("/v1/jobs/submit", {"command": "true"}),
        (f"/v1/jobs/{held}/cancel", {}),
        (f"/v1/jobs/{held}/urgency", {"urgency": 5}),
        (f"/v1/jobs/{running}/signal", {"signal": "USR1"}),
        ("/v1/queues/default/stop", {}),
        ("/v1/nodes/0/drain", {}),
        ("/v1/jobs/cancel", {"name": "held"}),
    ):
        asked = time.monotonic()
        answer = server.http.post(path, json=body)
        assert answer.status_code == 503, (path, answer.text)
        assert int(answer.headers["Retry-After"]) >= 1
        assert time.monotonic() - asked < 2
    assert server.http.post("/v1/jobs/bulk", content='{"command": "true"}\n').status_code == 503
    while time.monotonic() - begin < _SILENT:
        assert len(server.http.get("/v1/jobs").json()["jobs"]) == 2
        assert server.job(held)["state"] == "SCHED"
        assert server.http.get("/v1/jobs/search", params={"query": "held"}).json()["recordsMatched"] == 1
        assert server.http.get("/livez").status_code == 200
        assert server.http.get(f"/v1/jobs/{held}", params={"wait": 0.2}).headers["Flux-Instance-State"] == "lost"

    broker.signal(signal.SIGCONT)
    server.ready()
    # What was sent in vain may have been accepted: it is there once, and asking again finds it.
    headers = {"Idempotency-Key": "sent-into-silence"}

    def again() -> httpx.Response | None:
        answer = server.http.post("/v1/jobs/submit", json=_JOB, headers=headers)
        return answer if answer.status_code == 200 else None

    job = eventually(again).json()["id"]
    named = server.http.get("/v1/jobs", params={"name": _JOB["name"]}).json()["jobs"]
    assert [each["id"] for each in named] == [job]
    assert server.http.post(f"/v1/jobs/{held}/cancel").status_code == 200
    server.ended(held)
    eventually(lambda: any(m.data["id"] == held and m.data["name"] == "clean" for m in reader.messages))
    assert any(message.data["id"] == job for message in reader.messages)
    assert reader.connections == 1, "the stream has outlived the silence"
    reader.close()
    assert reader.heartbeats > 5


_JOB = {"command": "true", "urgency": 0, "name": "into-silence"}


def _first_command(url: str, result: dict[str, Any]) -> None:
    begin = time.monotonic()
    answer = httpx.post(
        f"{url}/v1/jobs/submit", json=_JOB, headers={"Idempotency-Key": "sent-into-silence"}, timeout=30
    )
    result.update(status=answer.status_code, seconds=time.monotonic() - begin, text=answer.text)
