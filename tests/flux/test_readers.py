"""Readers that read nothing, disconnect or reconnect: other readers are not affected, and no event is lost."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flux.lives import Lives
from tests.support.harness import PATIENCE, Broker, Server, beside, eventually
from tests.support.metrics import scrape
from tests.support.sse import Reader, Stream, ask, connect

Start = Callable[[Any], Any]

MIB = 1024 * 1024
#: Some 9 MB, reached soon: more than the last lines that are kept for all readers.
WRITE_MUCH = ["sh", "-c", "seq -f %0200.0f 45000"]


def peak(server: Server) -> int:
    """Return the peak resident memory in bytes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@contextlib.contextmanager
def idle_readers(server: Server, path: str, number: int, **headers: str) -> Iterator[list[Any]]:
    """Connections that request a stream and read nothing."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ask(server.url, path, buffer=4096, **headers)) for _ in range(number)]


def submit_many(server: Server, number: int) -> None:
    line = '{"command": "true", "urgency": 0}\n'
    answer = server.http.post("/v1/jobs/bulk", content=line * number, headers={"Content-Type": "application/x-ndjson"})
    assert answer.text.count('"status":200') == number
    on_their_way: dict[str, str | int] = {"state": "new,depend,priority", "limit": 1}
    eventually(lambda: not server.http.get("/v1/jobs", params=on_their_way).json()["jobs"], what="the end of all jobs")


def cut_off(server: Server) -> int:
    """Return how many streams were cut off; the log drops lines that are repeated too often."""
    return int(scrape(server.http)("flux_sidecar_stream_readers_dropped_total", reason="slow"))


class TestNeverReads:
    @pytest.fixture
    def server(self, tmp_path: Path, started: Start) -> Server:
        broker = started(Broker(tmp_path, cores=4)).running()
        server: Server = started(beside(broker, tmp_path, "--send-timeout", "1")).ready()
        return server

    def test_events(self, server: Server) -> None:
        """They are cut off, and their data is not kept; a reader that reads gets everything."""
        for _ in range(2):  # the buffer that all readers share is full then
            submit_many(server, 2000)  # some 1.5 MB of events, more than the kernel's buffers hold
        _one_reads(server, "/v1/events?after=0")
        before, seen = server.memory, cut_off(server)
        with idle_readers(server, "/v1/events?after=0", 50):
            reader = Reader(lambda: server.url, "/v1/events?after=0")
            reader.start()
            submit_many(server, 2000)
            eventually(lambda: reader.last_id == server.position(), what="the reader that reads")
            reader.close()
            # On a busy machine this reader may be too slow once too: it reconnects, and misses nothing.
            eventually(lambda: cut_off(server) >= seen + 50, what="all fifty cut off")
            assert server.memory - before < 30 * MIB
        last = int(server.position().split("-")[1])
        assert [int(message.id.split("-")[1]) for message in reader.messages] == list(range(1, last + 1))
        assert not reader.faults

    @pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
    def test_output(self, server: Server, kind: str) -> None:
        job = server.run(WRITE_MUCH)["id"]
        path = f"/v1/jobs/{job}/output/stream"
        _one_reads(server, path)
        before, seen = server.memory, cut_off(server)
        with idle_readers(server, path, 20, Accept=kind):
            eventually(lambda: cut_off(server) == seen + 20, what="all twenty cut off")
            # The log in Flux is read and decoded once, 10 to 40 MiB; a copy for each reader would be 180 in all.
            assert server.memory - before < 64 * MIB
            with connect(server.url, path) as stream:
                lines = [message.data["data"] for message in stream if message.event != "end"]
        assert lines == [f"{number:0200d}\n" for number in range(1, 45001)]

    def test_output_of_a_job_that_writes(self, server: Server) -> None:
        """Other readers follow it line by line, to its end."""
        job = server.submit(["sh", "-c", "for i in 1 2 3; do seq -f %0200.0f 15000; sleep 0.3; done"])
        server.state(job, "RUN")
        path = f"/v1/jobs/{job}/output/stream"
        before = server.memory
        with idle_readers(server, path, 20):
            reader = Reader(lambda: server.url, path)  # on a busy machine it may be too slow once too, and reconnects
            reader.start()
            reader.join(PATIENCE)
            assert reader.end.get("reason") == "ended"
            assert [m.data["data"] for m in reader.messages] == [f"{n:0200d}\n" for n in range(1, 15001)] * 3
            assert [m.id for m in reader.messages] == [str(n) for n in range(1, 45001)]
            assert not reader.faults
            eventually(lambda: cut_off(server) >= 20, what="all twenty cut off")
            assert server.memory - before < 150 * MIB  # each copy would be 20 MB

    def test_slow_reader_gets_the_reason(self, server: Server) -> None:
        """Data in flight arrives completely, then the reason for the end; the last event ID continues from there."""
        submit_many(server, 3000)
        last = server.position()
        with ask(server.url, "/v1/events?after=0", buffer=4096) as connection:
            eventually(lambda: cut_off(server) == 1, what="cut off")
            with Stream(connection) as stream:
                messages = list(stream)
        assert messages[-1].event == "end"
        assert messages[-1].data["reason"] == "slow"
        seen = [message.id for message in messages[:-1]]
        with connect(server.url, "/v1/events", last_id=seen[-1]) as rest:
            for message in rest:
                seen.append(message.id)
                if message.id == last:
                    break
        assert [int(each.split("-")[1]) for each in seen] == list(range(1, int(last.split("-")[1]) + 1))

    def test_slow_but_steady(self, server: Server) -> None:
        """The send timeout is for readers that read nothing: a slow reader gets everything."""
        job = server.run(["sh", "-c", "seq -f %0100.0f 20000"])["id"]
        with ask(server.url, f"/v1/jobs/{job}/output/stream", buffer=4096) as connection:
            connection.setblocking(True)
            received, begin = bytearray(), time.monotonic()
            while data := connection.recv(65536):
                received += data
                while time.monotonic() - begin < len(received) / (1.2 * MIB):
                    time.sleep(0.01)  # a line of 1.2 MiB/s
                if received.endswith(b"0\r\n\r\n"):
                    break
        assert time.monotonic() - begin > 1.5
        assert received.count(b"data: {") == 20001
        assert b'"reason":"ended"' in received
        assert cut_off(server) == 0


def _one_reads(server: Server, path: str) -> None:
    """Let one reader finish first, so that data kept once is not counted for each reader."""
    with idle_readers(server, path, 1):
        seen = cut_off(server)
        eventually(lambda: cut_off(server) > seen, what="the first cut off")


PATHS = ("/v1/events", "/v1/events?after=0", "/v1/jobs/{}/events", "/v1/jobs/{}/output/stream", "/v1/jobs/{}?wait=600")


def test_thousand_disconnected_readers(tmp_path: Path, started: Start) -> None:
    """They leave nothing behind, even if no event occurs that would reveal their absence."""
    broker = started(Broker(tmp_path)).running()
    server = started(beside(broker, tmp_path, "--heartbeat", "600")).ready()
    job = server.submit("sh -c 'echo begun; sleep 600'")
    eventually(lambda: server.output(job) == ["begun\n"])
    _disconnect(server, job, 1000)  # data kept once, and the memory of so many concurrent requests
    before = server.memory
    for _ in range(3):
        _disconnect(server, job, 1000)
    # Each reader with its task would use some twenty thousand bytes.
    eventually(lambda: server.memory - before < 12 * MIB, within=5, what="released memory")
    reader = Reader(lambda: server.url, f"/v1/jobs/{job}/output/stream")
    reader.start()
    server.http.post(f"/v1/jobs/{job}/cancel").raise_for_status()
    reader.join(60)
    assert [message.data["data"] for message in reader.messages][:1] == ["begun\n"]
    assert reader.end["result"] == "CANCELED"


def _disconnect(server: Server, job: int, number: int) -> None:
    """Request streams of every kind, and disconnect once they have started."""
    before = server.descriptors
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(ask(server.url, PATHS[n % len(PATHS)].format(job))) for n in range(number)]
        eventually(lambda: server.descriptors >= before + number, what="all connected")
        for n, reader in enumerate(readers):
            if "wait" not in PATHS[n % len(PATHS)]:
                assert reader.recv(12) == b"HTTP/1.1 200"
    eventually(lambda: server.descriptors <= before, what="all descriptors closed")


def test_many_readers_reconnect(tmp_path: Path, started: Start) -> None:
    """As after a restart: each is a few lines behind, and the output is searched once for all of them."""
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path)).ready()
    job = server.run(WRITE_MUCH)["id"]
    assert len(server.output(job)) == 45000
    before = peak(server)
    with contextlib.ExitStack() as stack:
        path = f"/v1/jobs/{job}/output/stream"
        readers = [stack.enter_context(ask(server.url, path, Last_Event_ID="44990")) for _ in range(30)]
        server.submit("true")  # and other requests do not wait until Flux has responded
        for reader in readers:
            with Stream(reader) as stream:
                assert stream.status == 200
                assert [message.id for message in stream][:-1] == [str(n) for n in range(44991, 45001)]
    assert peak(server) - before < 200 * MIB


def test_output_from_the_start(tmp_path: Path, started: Start) -> None:
    """A reader that follows a job which has just started misses nothing, although its output does not exist yet."""
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path)).ready()
    for _ in range(10):
        job = server.submit(["sh", "-c", "echo first; sleep 600"])
        server.state(job, "RUN")
        with connect(server.url, f"/v1/jobs/{job}/output/stream") as stream:
            assert next(iter(stream)).data == {"stream": "stdout", "rank": "0", "data": "first\n"}
        server.http.post(f"/v1/jobs/{job}/cancel").raise_for_status()


def test_output_across_a_restart(tmp_path: Path, started: Start) -> None:
    """A stream that resumes after its last ID, at any server, neither loses nor repeats a line."""
    broker = started(Broker(tmp_path)).running()
    lives = Lives(broker, tmp_path, started, "--store", str(tmp_path / "jobs.sqlite"), "--no-stop-on-signal")
    server = lives.server.ready()
    go = tmp_path / "go"
    script = f"i=0; while [ ! -e {go} ]; do i=$((i+1)); echo $i; sleep 0.01; done; seq -f last-%.0f 500"
    job = server.submit(["sh", "-c", script])
    server.state(job, "RUN")
    reader = Reader(lives.url, f"/v1/jobs/{job}/output/stream")
    reader.start()
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        seen = len(reader.messages)
        eventually(lambda seen=seen: len(reader.messages) > seen + 20, what="more lines")  # type: ignore[misc]
        lives.end(number)
        lives.begin()
    lives.server.ready()
    go.touch()
    reader.join(60)
    assert not reader.faults
    assert reader.end["result"] == "COMPLETED"
    assert reader.connections >= 4
    shown = [message.data["data"] for message in reader.messages]
    assert [message.id for message in reader.messages] == [str(n) for n in range(1, len(shown) + 1)]
    assert shown == lives.server.output(job)
    counted = [*map(str, range(1, len(shown) - 499)), *(f"last-{n}" for n in range(1, 501))]
    assert [line.strip() for line in shown] == counted
