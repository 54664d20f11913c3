"""Streams: every event once, from any position on, and an end event with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.support.harness import Server, eventually
from tests.support.sse import messages, until


def _position(server: Server) -> str:
    return server.position()


def _eventlog(server: Server, job: int) -> list[dict[str, Any]]:
    answer = server.http.get(f"/v1/jobs/{job}/eventlog").json()
    assert answer["id"] == job
    return list(answer["events"])


def test_events_of_one_job(server: Server) -> None:
    job = server.submit(["sh", "-c", "exit 3"])
    *events, end = messages(server, f"/v1/jobs/{job}/events")
    assert end.event == "end"
    assert end.data == {
        "reason": "ended", "id": job, "f58id": server.job(job)["f58id"], "state": "INACTIVE", "result": "FAILED", "returncode": 3,
    }  # fmt: skip
    names = [event.data["name"] for event in events]
    assert names[0] == "submit"
    assert names[-1] == "clean"
    assert {"alloc", "start", "finish"} < set(names)
    assert (events[-1].data["state"], events[-1].data["result"], events[-1].data["returncode"]) == (
        "INACTIVE",
        "FAILED",
        3,
    )
    shown = [{k: v for k, v in event.data.items() if k not in ("id", "f58id")} for event in events]
    assert shown == _eventlog(server, job)
    assert len({event.id for event in events}) == len(events)
    # An ended job has the same events, and they can be read from any event on.
    assert list(messages(server, f"/v1/jobs/{job}/events")) == [*events, end]
    for number, event in enumerate(events):
        rest = list(messages(server, f"/v1/jobs/{job}/events", last=event.id))
        assert [message.data for message in rest] == [message.data for message in [*events[number + 1 :], end]]


def test_stream_continues_a_list(server: Server) -> None:
    before = server.submit("true", name="before")
    server.ended(before)
    after = _position(server)
    job = server.submit("true", name="goes-on")
    server.ended(job)
    found = until(server, "/v1/events", len(_eventlog(server, job)), after=after, name="goes-on")
    assert [message.data["id"] for message in found] == [job] * len(found)
    assert [message.data["name"] for message in found] == [event["name"] for event in _eventlog(server, job)]
    assert before not in {message.data["id"] for message in found}


def test_filters(server: Server) -> None:
    after = _position(server)
    jobs = [server.submit("true", name="filtered"), server.submit("false", name="filtered")]
    for job in jobs:
        server.ended(job)
    [first] = until(server, "/v1/events", 1, after=after, result="failed", name="filtered")
    assert (first.data["id"], first.data["result"], first.data["returncode"]) == (jobs[1], "FAILED", 1)
    two = until(server, "/v1/events", 2, after=after, state="INACTIVE", name="filtered")
    assert sorted(message.data["id"] for message in two) == sorted(jobs)
    user = server.job(jobs[0])["username"]
    assert until(server, "/v1/events", 1, after=after, user=user)
    assert until(server, "/v1/events", 1, after="0")[0].data["name"] == "submit"


def test_idle_stream_sends_comments(own_server: Callable[..., Server]) -> None:
    server = own_server("--heartbeat", "0.1")
    with server.http.stream("GET", "/v1/events") as answer:
        lines = answer.iter_lines()
        assert any(line.startswith(": ping") for line in lines)


def test_last_event_of_a_server_that_stops(own_server: Callable[..., Server]) -> None:
    server = own_server()
    job = server.submit("true", urgency=0)
    with (
        server.http.stream("GET", "/v1/events") as events,
        server.http.stream("GET", f"/v1/jobs/{job}/output/stream") as output,
    ):
        begin = time.monotonic()
        waiting = httpx.Client(base_url=server.url)
        assert waiting.post("/v1/service/stop").status_code == 202
        for answer in (events, output):
            text = answer.read().decode()
            assert text.rstrip().rpartition("event: ")[2].startswith('end\ndata: {"reason":"'), text
        assert "stopping" in events.text
        assert time.monotonic() - begin < 20
        waiting.close()
    assert server.wait() == 0


class TestOutput:
    def test_lines_are_sent_as_they_are_written(self, server: Server) -> None:
        job = server.submit(["sh", "-c", "echo one; echo two >&2; while ! test -e go; do sleep 0.05; done; echo three"])
        found = []
        stream = messages(server, f"/v1/jobs/{job}/output/stream")
        for message in stream:
            found.append(message)
            if len(found) == 2:
                break
        state = server.http.get(f"/v1/jobs/{job}?wait=60&until=run").json()["state"]
        assert state == "RUN", "the lines are sent while the job runs"
        assert sorted((m.data["stream"], m.data["data"]) for m in found) == [("stderr", "two\n"), ("stdout", "one\n")]
        go = server.job(job)["cwd"] + "/go"
        server.run(["touch", go])
        found += list(stream)
        server.run(["rm", go])
        assert [(m.id, m.event) for m in found] == [("1", "message"), ("2", "message"), ("3", "message"), ("3", "end")]
        assert found[2].data == {"stream": "stdout", "rank": "0", "data": "three\n"}
        assert (found[3].data["reason"], found[3].data["result"], found[3].data["returncode"]) == (
            "ended",
            "COMPLETED",
            0,
        )

    def test_ended_job(self, server: Server) -> None:
        job = server.run(["sh", "-c", "for i in 1 2 3 4 5; do echo $i; done; printf end"])["id"]
        path = f"/v1/jobs/{job}/output/stream"

        def lines(**params: Any) -> list[str]:
            *found, end = messages(server, path, **params)
            assert end.data["reason"] == "ended"
            return [message.data["data"] for message in found]

        assert lines() == ["1\n", "2\n", "3\n", "4\n", "5\n", "end"]
        assert lines(tail=2) == ["5\n", "end"]
        assert lines(tail=0) == []
        assert lines(tail=100) == lines()
        assert lines(stream="stderr") == []
        assert lines(last="4") == ["5\n", "end"]
        assert lines(after="5") == ["end"]
        answer = server.http.get(path, headers={"Accept": "text/plain"})
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert answer.text == "1\n2\n3\n4\n5\nend"

    def test_output_so_far(self, server: Server) -> None:
        job = server.submit(["sh", "-c", "echo up; sleep 60"])
        eventually(lambda: server.output(job) == ["up\n"])
        server.state(job, "RUN")  # its output may be read before its start is stored
        *found, end = messages(server, f"/v1/jobs/{job}/output/stream", follow="false")
        assert [message.data["data"] for message in found] == ["up\n"]
        assert (end.data["reason"], end.data["state"]) == ("so far", "RUN")
        # A later reader gets all of it too, and then the end event.
        stream = messages(server, f"/v1/jobs/{job}/output/stream")
        assert next(stream).data["data"] == "up\n"
        server.http.post(f"/v1/jobs/{job}/cancel")
        assert [(m.event, m.data.get("result")) for m in stream][-1] == ("end", "CANCELED")

    def test_job_that_never_runs(self, server: Server) -> None:
        job = server.submit("true", urgency=0)
        with server.http.stream("GET", f"/v1/jobs/{job}/output/stream") as answer:
            client = httpx.Client(base_url=server.url)
            client.post(f"/v1/jobs/{job}/cancel")
            client.close()
            assert '"result":"CANCELED"' in answer.read().decode()

    def test_large_output_and_invalid_utf8(self, server: Server) -> None:
        job = server.submit(["sh", "-c", r"seq 1 20000; printf '\377\000\n'"])
        with server.http.stream(
            "GET", f"/v1/jobs/{job}/output/stream", headers={"Accept": "application/octet-stream"}
        ) as answer:
            text = answer.read()
        assert text == b"".join(b"%d\n" % number for number in range(1, 20001)) + b"\xff\x00\n"
        numbers = [int(m.id) for m in messages(server, f"/v1/jobs/{job}/output/stream") if m.event == "message"]
        assert numbers == list(range(1, 20002))


class TestWait:
    def test_until_inactive(self, server: Server) -> None:
        job = server.submit("sleep 0.3")
        begin = time.monotonic()
        answer = server.http.get(f"/v1/jobs/{job}", params={"wait": 25}).json()
        assert answer["state"] == "INACTIVE"
        assert time.monotonic() - begin < 20

    @pytest.mark.parametrize("until", ["run", "finish"])
    def test_until_an_earlier_state(self, server: Server, until: str) -> None:
        job = server.submit("sleep 0.3" if until == "finish" else "sleep 60")
        answer = server.http.get(f"/v1/jobs/{job}", params={"wait": 25, "until": until}).json()
        assert answer["state"] in ("RUN", "CLEANUP", "INACTIVE")
        server.http.post(f"/v1/jobs/{job}/cancel")

    def test_wait_times_out(self, server: Server) -> None:
        job = server.submit("true", urgency=0)
        begin = time.monotonic()
        answer = server.http.get(f"/v1/jobs/{job}", params={"wait": 0.2, "until": "run"})
        assert (answer.status_code, answer.json()["state"]) == (200, "SCHED")
        assert 0.2 <= time.monotonic() - begin < 5
        server.http.post(f"/v1/jobs/{job}/cancel")
