"""Readers of the log that have exited or read nothing, and a full disk: only log lines are lost."""

from __future__ import annotations

import fcntl
import os
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.harness import SIDECAR, Server, eventually

Start = Callable[[Server], Server]

KINDS = ("embedded", pytest.param("flux", marks=pytest.mark.flux))
_WITHIN = 30.0  # seconds; longer than the limit of a stop


@pytest.fixture(params=KINDS)
def run(request: pytest.FixtureRequest, tmp_path: Path, started: Start) -> Callable[..., Server]:
    """Start a server whose standard error, or output, is a file of the test."""

    def start(path: str | Path, *options: str, stream: int = 2) -> Server:
        redirected = ["sh", "-c", f'exec "$@" {stream}>"$0"', str(path), SIDECAR, "serve", *options]
        if request.param == "embedded":
            return started(Server([*redirected, "--embedded"], tmp_path))
        return started(Server(["flux", "start", *redirected], tmp_path))

    return start


def pipe(path: Path) -> int:
    """Make a pipe with a small buffer, and return its end for reading."""
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    return reader


def serves(server: Server) -> None:
    job = server.submit("sleep 600")
    assert server.state(job, "RUN")["id"] == job
    for _ in range(100):  # more lines than fit into a pipe
        assert server.http.get("/v1/nothing").status_code == 404
    assert server.http.get("/livez").status_code == 200


def test_reader_that_has_exited(run: Callable[..., Server], tmp_path: Path) -> None:
    reader = pipe(tmp_path / "log")
    server = run(tmp_path / "log", "--port", "0").ready()
    os.close(reader)
    serves(server)
    assert server.stop().status_code == 202
    assert server.wait(_WITHIN) == 0


@pytest.mark.parametrize("signals", [0, 1, 2])
def test_reader_that_reads_nothing(run: Callable[..., Server], tmp_path: Path, signals: int) -> None:
    """Neither a stop, nor a signal, nor a second signal waits for it; what it reads later is in order."""
    reader = pipe(tmp_path / "log")
    server = run(tmp_path / "log", "--port", "0").ready()
    serves(server)
    if signals:
        pid = server.child("flux-sidecar serve") if server.popen.args[0] == "flux" else server.pid  # type: ignore[index]
        for _ in range(signals):
            os.kill(pid, signal.SIGTERM)
    else:
        server.stop()
    assert server.wait(_WITHIN) == 0
    assert 0 < len(os.read(reader, 1 << 20)) <= 4096
    os.close(reader)


def test_reader_that_reads_late(run: Callable[..., Server], tmp_path: Path) -> None:
    reader = pipe(tmp_path / "log")
    server = run(tmp_path / "log", "--port", "0").ready()
    for number in range(100):
        assert server.http.get(f"/v1/nothing/{number}").status_code == 404
    read = bytearray()

    def all_of_it() -> bool:
        try:
            read.extend(os.read(reader, 65536))
        except BlockingIOError:
            return False
        return b"/v1/nothing/99 " in read

    eventually(all_of_it, what="the last line")
    lines = [line for line in read.decode().splitlines() if "/v1/nothing/" in line]
    assert [line.partition("path=/v1/nothing/")[2].split()[0] for line in lines] == [str(each) for each in range(100)]
    server.stop()
    assert server.wait(_WITHIN) == 0
    os.close(reader)


def test_full_disk(run: Callable[..., Server]) -> None:
    server = run("/dev/full", "--port", "0").ready()
    serves(server)
    server.stop()
    assert server.wait(_WITHIN) == 0


def test_readiness_message_that_cannot_be_written(run: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    server = run("/dev/full", "--socket", str(path), "--no-tcp", stream=1)
    eventually(path.exists, what="a socket that is listened on")  # the file appears when the socket listens
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
        eventually(lambda: client.get("/readyz").status_code == 200, what="readiness")
        assert client.post("/v1/service/stop").status_code == 202
    assert server.wait(_WITHIN) == 0
