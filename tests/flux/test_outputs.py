"""Output of every size and kind in real Flux: complete, with limited memory, and without delay for other callers."""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.harness import Broker, Server, beside, eventually
from tests.support.sse import ask, connect
from tests.unit.domain.test_output import HOSTILE, WRITTEN, entry, expected

Start = Callable[[Any], Any]

MIB = 1024 * 1024
LINES = 60_000
#: In lines of 40 bytes, of which Flux keeps 140 each.
LONG = ["sh", "-c", f"seq -f %039.0f {LINES}"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, Server, int]]:
    """A broker, a server beside it, and a job with a long output."""
    directory = tmp_path_factory.mktemp("outputs")
    broker = Broker(directory, cores=4)
    server = beside(broker, directory, "--rate-limit", "0")
    try:
        broker.running()
        job = server.ready().run(LONG, within=120)["id"]
        yield broker, server, job
    finally:
        server.close()
        broker.close()


def flux(broker: Broker, *command: str, data: bytes = b"") -> bytes:
    """Run a flux command and return the bytes that it prints."""
    environment = {**os.environ, "FLUX_URI": broker.uri}
    done = subprocess.run(["flux", *command], env=environment, input=data, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def put(broker: Broker, job: int, log: bytes, *options: str) -> None:
    """Write a job's output eventlog to the KVS."""
    key = broker.run("job", "id", "--to=kvs", str(job)).stdout.strip()
    flux(broker, "kvs", "put", "--raw", *options, f"{key}.guest.output=-", data=log)


def read(server: Server, path: str, accept: str, found: list[int]) -> None:
    """Read a long response; return the number of its lines."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=120)
    connection.request("GET", path, headers={"Accept": accept})
    data = connection.getresponse().read()
    connection.close()
    found.append(
        sum(f"{number:039d}\\n".encode() in data or f"{number:039d}\n".encode() in data for number in (1, 7777, LINES))
    )
    found.append(data.count(b"0" * 30))


def test_ten_readers_do_not_delay_others(site: tuple[Broker, Server, int]) -> None:
    _, server, job = site
    forms = [
        (f"/v1/jobs/{job}/output", "application/json"),
        (f"/v1/jobs/{job}/output", "text/plain"),
        (f"/v1/jobs/{job}/output/stream", "text/event-stream"),
        (f"/jobs/{job}/output", "*/*"),
    ]

    def submit() -> float:
        begin = time.monotonic()
        server.submit("true", urgency=0)
        return time.monotonic() - begin

    alone = [submit() for _ in range(20)]
    before, most = server.memory, 0
    found: list[list[int]] = [[] for _ in range(10)]
    readers = [threading.Thread(target=read, args=(server, *forms[n % 4], found[n])) for n in range(10)]
    for reader in readers:
        reader.start()
    beside_them = []
    while any(reader.is_alive() for reader in readers):
        beside_them.append(submit())
        most = max(most, server.memory)
    assert found == [[3, LINES]] * 10
    assert most - before < 60 * MIB
    # A lookup of the whole log of 8 MB would delay a submit for half a second, once for each reader.
    assert statistics.median(beside_them) < 10 * statistics.median(alone) + 0.2


def test_tail_reads_only_the_end(site: tuple[Broker, Server, int]) -> None:
    _, server, job = site
    with connect(server.url, f"/v1/jobs/{job}/output/stream?tail=3") as stream:
        *lines, end = list(stream)
    assert [message.data["data"] for message in lines if message.event == "message"] == [
        f"{number:039d}\n" for number in range(LINES - 2, LINES + 1)
    ]
    assert end.data["reason"] == "ended"
    last = [message.id for message in lines]
    with connect(server.url, f"/v1/jobs/{job}/output/stream", last_id=last[0]) as stream:
        assert [message.id for message in stream if message.event == "message"] == last[1:]


def test_output_equals_that_of_flux(site: tuple[Broker, Server, int]) -> None:
    """Invalid UTF-8 and output in small parts, compared with Flux's own command."""
    broker, server, _ = site
    script = r"for i in 1 2 3 4 5; do printf 'a\377\000\n\376'; sleep 0.2; printf '%s' ä; done"
    unbuffered: dict[str, Any] = {"option_flags": {"output": {"stdout": {"buffer": {"type": "none"}}}}}
    for options in ({}, unbuffered):
        job = server.run(["sh", "-c", script], **options)["id"]
        shown = flux(broker, "job", "attach", str(job))
        got = server.http.get(f"/v1/jobs/{job}/output", headers={"Accept": "text/plain"}).content
        assert got == shown
        assert got.count(b"a\xff\x00\n\xfe\xc3\xa4") == 5


@settings(
    max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(parts=st.lists(st.one_of(HOSTILE, WRITTEN), max_size=12), cut=st.integers(0, 3000))
def test_arbitrary_entries_of_the_log(site: tuple[Broker, Server, int], parts: list[Any], cut: int) -> None:
    """Entries that a job writes into its own log are skipped; its other output and that of other jobs is complete."""
    broker, server, long = site
    job = server.run("true")["id"]
    log = b"".join(
        b"".join(entry(*each) for each in part) if isinstance(part, list) else part + b"\n" for part in parts
    )
    put(broker, job, log[:cut])
    put(broker, job, log[cut:], "--append")
    wanted = expected([each for part in parts if isinstance(part, list) for each in part])
    answer = server.http.get(f"/v1/jobs/{job}/output", headers={"Accept": "text/plain"})
    assert answer.content == b"".join(line for _, _, line in wanted)
    assert server.output(job) == [line.decode(errors="replace") for _, _, line in wanted]
    with connect(server.url, f"/v1/jobs/{job}/output/stream") as stream:
        assert [message.data["data"] for message in stream if message.event == "message"] == [
            line.decode(errors="replace") for _, _, line in wanted
        ]
    assert server.http.get(f"/v1/jobs/{long}/output/stream?tail=1&follow=false").text.count("data:") == 2


def test_arbitrary_data_in_place_of_the_log(site: tuple[Broker, Server, int]) -> None:
    broker, server, _ = site
    job = server.run("echo here")["id"]
    key = broker.run("job", "id", "--to=kvs", str(job)).stdout.strip()
    for command in (
        ("mkdir", f"{key}.guest.output"),
        ("link", "nowhere", f"{key}.guest.output"),
        ("link", f"{key}.guest", f"{key}.guest.output"),
        ("put", f"{key}.guest.output=5"),
        ("unlink", f"{key}.guest.output"),
    ):
        assert broker.run("kvs", "unlink", "-R", "-f", f"{key}.guest.output").returncode == 0
        if command[0] != "unlink":
            assert broker.run("kvs", *command).returncode == 0
        answer = server.http.get(f"/v1/jobs/{job}/output")
        assert (answer.status_code, answer.headers["Content-Type"]) in (
            (200, "application/json"),
            (500, "application/problem+json"),
        ), answer.text
        with connect(server.url, f"/v1/jobs/{job}/output/stream") as stream:
            if stream.status == 200:
                assert [message.event for message in stream][-1] == "end"
    assert server.http.get("/readyz").status_code == 200


def test_truncated_output(site: tuple[Broker, Server, int]) -> None:
    """The output is empty, but not because the job has written none: the response does not claim that."""
    _, server, _ = site
    job = server.run(["sh", "-c", "echo 0123456789abcdef; echo hi"], option_flags={"output.limit": 10})["id"]
    body = server.http.get(f"/v1/jobs/{job}/output").json()
    assert body["Output"] == []
    assert "truncated" in body["Log"][0]["message"]
    assert body["Message"].endswith("or nothing of it was stored: see the messages of the job's shell in Log.")


def test_purge_during_a_read(site: tuple[Broker, Server, int]) -> None:
    """A reader that has started gets all of it; later readers get none."""
    broker, server, _ = site
    job = server.run(["sh", "-c", f"seq -f %039.0f {LINES // 2}"], within=60)["id"]
    with ask(server.url, f"/v1/jobs/{job}/output", buffer=4096, Accept="text/plain") as connection:
        connection.setblocking(True)
        begun = connection.recv(20000)
        assert broker.run("job", "purge", "--force", str(job)).returncode == 0
        while data := connection.recv(65536):
            begun += data
            if begun.endswith(b"0\r\n\r\n"):
                break
    assert begun.count(b"0" * 30) >= LINES // 2 - 20  # the border between two chunks may be in one
    assert begun.endswith(b"0\r\n\r\n")
    answer = server.http.get(f"/v1/jobs/{job}/output")
    assert (answer.status_code, "purged" in answer.json()["detail"]) == (410, True)


def test_broker_is_killed_during_a_read(tmp_path: Path, started: Start) -> None:
    """A response that cannot continue is cut off, and a stream ends with the reason: none looks complete."""
    broker = started(Broker(tmp_path, cores=4)).running()
    server = started(beside(broker, tmp_path, "--no-stop-on-signal", "--rpc-timeout", "2")).ready()
    job = server.run(["sh", "-c", f"seq -f %0400.0f {LINES // 2}"], within=120)["id"]
    paths = (f"/v1/jobs/{job}/output", f"/jobs/{job}/output", f"/v1/jobs/{job}/output/stream")
    connections = [ask(server.url, path, buffer=4096) for path in paths]
    for connection in connections:
        connection.setblocking(True)
        assert connection.recv(12) == b"HTTP/1.1 200"
    broker.signal(signal.SIGKILL)
    broker.wait()
    eventually(lambda: server.http.get("/readyz").status_code == 503, what="not ready")
    for connection, path in zip(connections, paths, strict=True):
        received = bytearray()
        try:
            while data := connection.recv(65536):
                received += data
        except ConnectionError:
            pass
        connection.close()
        if path.endswith("stream"):
            assert b'"reason":"unavailable"' in received[-1000:]
        else:
            assert not received.endswith(b"0\r\n\r\n")


def test_tail_of_a_running_job(site: tuple[Broker, Server, int], tmp_path: Path) -> None:
    """Its tail, and then each line as it is written, also from a position in the middle of the log."""
    _, server, _ = site
    go = tmp_path / "go"
    script = f"seq -f %039.0f 20000; while [ ! -e {go} ]; do sleep 0.1; done; seq 20001 20005; printf end"
    job = server.submit(["sh", "-c", script])
    eventually(lambda: "20000\\n" in server.http.get(f"/v1/jobs/{job}/output").text[-20:], within=60, what="its lines")
    with connect(server.url, f"/v1/jobs/{job}/output/stream?tail=2") as stream:
        lines = iter(stream)
        found: list[str] = []
        while len(found) < 2:
            message = next(lines)
            found += [message.data["data"]]
        go.touch()
        found += [message.data["data"] for message in lines if message.event == "message"]
    assert found == [f"{19999:039d}\n", f"{20000:039d}\n", *(f"{n}\n" for n in range(20001, 20006)), "end"]
