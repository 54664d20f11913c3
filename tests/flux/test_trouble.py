"""An instance that does not exist, does not respond, or belongs to another user."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.harness import SIDECAR, Broker, Server, beside, eventually

Start = Callable[[Any], Any]


def _refused(server: Server) -> None:
    """Every command is refused at once, with Retry-After."""
    client = server.http  # its start is not measured
    for path, body in (("/v1/jobs/submit", {"command": "true"}),):
        begin = time.monotonic()
        answer = client.post(path, json=body)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert time.monotonic() - begin < 1
    assert server.http.get("/readyz").status_code == 503
    assert server.http.get("/livez").status_code == 200


def test_server_without_a_broker(tmp_path: Path, started: Start) -> None:
    server = started(Server([SIDECAR, "serve", "--port", "0", "--uri", f"local://{tmp_path}/local"], tmp_path))
    _refused(server)
    answer = server.http.get("/v1/jobs")
    assert answer.json()["jobs"] == []
    assert answer.headers["Flux-Instance-State"] == "connecting"
    started(Broker(tmp_path))
    server.ready()
    assert server.run("echo now")["result"] == "COMPLETED"
    assert "Flux-Instance-State" not in server.http.get("/v1/jobs").headers


def test_broker_that_does_not_respond(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path, "--rpc-timeout", "1")).ready()
    job = server.run("true")
    eventually(lambda: server.http.get("/v1/nodes").json()["nodes"], what="a node that is up")
    broker.signal(signal.SIGSTOP)
    eventually(lambda: server.http.get("/v1/service").json()["instance"]["connection"] == "lost")
    _refused(server)
    assert server.http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 409
    assert server.http.get(f"/v1/jobs/{job['id']}/output").status_code == 503
    answer = server.http.get("/v1/jobs", params={"details": "true", "listing": "true"})
    assert answer.json() == [job]
    assert answer.headers["Flux-Instance-State"] == "lost"
    assert len(server.http.get("/v1/nodes").json()["nodes"]) == 1
    broker.signal(signal.SIGCONT)
    server.ready()
    assert server.run("true")["result"] == "COMPLETED"


def test_slow_response_delays_no_other_request(tmp_path: Path, started: Start) -> None:
    """While a submit waits for a broker that does not respond, all other requests are served."""
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path, "--rpc-timeout", "5")).ready()
    broker.signal(signal.SIGSTOP)
    waiting = subprocess.Popen(
        [sys.executable, "-c", f"import httpx; print(httpx.post('{server.url}/v1/jobs/submit', params={{'command': 'true'}}, timeout=60).status_code)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    took = []

    def answered() -> bool:
        begin = time.monotonic()
        assert server.http.get("/v1/jobs").status_code == 200
        took.append(time.monotonic() - begin)
        return waiting.poll() is not None

    eventually(answered, what="a response to the submit")
    broker.signal(signal.SIGCONT)
    assert waiting.communicate()[0].strip() == "503"
    assert max(took) < 1


def test_a_broker_that_comes_back(tmp_path: Path, started: Start) -> None:
    """A new broker on the same socket within the lost timeout is used."""
    first = started(Broker(tmp_path))
    server = started(beside(first, tmp_path, "--lost-timeout", "60")).ready()
    server.run("true")
    first.signal(signal.SIGKILL)
    first.wait()
    eventually(lambda: server.http.get("/v1/service").json()["instance"]["connection"] == "lost")
    _refused(server)
    started(Broker(tmp_path))
    server.ready()
    assert server.http.get("/v1/jobs").json()["jobs"] == [], "another instance, without jobs"
    assert server.run("true")["result"] == "COMPLETED"


def test_a_broker_that_takes_long_to_come_back(tmp_path: Path, started: Start) -> None:
    """The server waits longer than the lost timeout for a broker that is starting, but not for one that has died."""
    first = started(Broker(tmp_path))
    server = started(beside(first, tmp_path, "--lost-timeout", "8")).ready()
    first.signal(signal.SIGKILL)
    first.wait()
    rc1 = tmp_path / "rc1"
    rc1.write_text(f"#!/bin/sh\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.1; done\nexec flux modprobe rc1\n")
    rc1.chmod(0o755)
    second = started(Broker(tmp_path, f"-Sbroker.rc1_path={rc1}"))
    eventually(lambda: "the broker is starting (state init)" in server.text(), what="a broker that starts")
    with pytest.raises(subprocess.TimeoutExpired):
        server.popen.wait(10)
    (tmp_path / "go").touch()
    server.ready()
    assert server.run("true")["result"] == "COMPLETED"
    second.signal(signal.SIGKILL)
    assert server.wait() == 0


def test_the_job_manager_is_reloaded(tmp_path: Path, started: Start) -> None:
    """The journal ends and restarts: no event is lost or duplicated."""
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path, "--lost-timeout", "60")).ready()
    jobs = [server.run("true")["id"] for _ in range(3)]
    assert broker.run("module", "reload", "-f", "job-manager").returncode == 0
    server.ready()
    listed = [job["id"] for job in server.http.get("/v1/jobs").json()["jobs"]]
    assert sorted(listed) == sorted(jobs)


@pytest.mark.parametrize("guests", ["true", "false"])
def test_guest_is_refused(tmp_path: Path, started: Start, guests: str) -> None:
    """If guests are allowed, one may connect and read, but neither submit nor follow the journal."""
    if os.getuid() != 0:
        pytest.fail("run the tests as root: only root can start a server as another user")
    config = tmp_path / "config"
    config.mkdir()
    (config / "access.toml").write_text(f"[access]\nallow-guest-user = {guests}\n")
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o755)
    broker = started(Broker(tmp_path, f"-c{config}")).running()
    # Everything is imported and the pages are compiled before the change of user: the other user may be unable to read
    # this Python's files.
    script = (
        "import asyncio, os, sys, sidecar.cli, sidecar.app.run, sidecar.instance.flux.instance, sidecar.web.render\n"
        "import concurrent.futures.thread, encodings.idna, tempfile\n"
        "asyncio.run(sidecar.web.render.compile_all())\n"
        "os.setgid(65534); os.setuid(65534); os.environ['TMPDIR'] = '/tmp'; tempfile.tempdir = None\n"
        f"sys.argv = ['flux-sidecar', 'serve', '--port', '0', '--uri', {broker.uri!r}]\n"
        "sidecar.cli.main()\n"
    )
    server = started(Server([sys.executable, "-c", script], tmp_path))
    assert server.wait(20) == 2
    text = "the broker runs as uid 0, this server as uid 65534: give both the same runAsUser"
    assert f"flux-sidecar: The instance cannot be served: {text}" in server.text()
    assert server.text().count("[error") == 1
    assert "Traceback" not in server.text()
    assert broker.run("uptime").returncode == 0


def test_jobs_get_the_environment_of_the_broker(tmp_path: Path, started: Start) -> None:
    """Not that of the server's container: its PATH, HOME and directory are useless to jobs."""
    broker_directory = tmp_path / "broker"
    broker_directory.mkdir()
    os.environ["ONLY_THE_BROKER"] = "has this"
    try:
        broker = started(Broker(broker_directory))
    finally:
        del os.environ["ONLY_THE_BROKER"]
    server = started(beside(broker, tmp_path, HOME="/nowhere", ONLY_THE_SERVER="x")).ready()
    job = server.run("env", envars={"ADDED": "too"})
    lines = server.output(job["id"])
    assert "ONLY_THE_BROKER=has this\n" in lines
    assert "ADDED=too\n" in lines
    assert not any(line.startswith("ONLY_THE_SERVER") or line == "HOME=/nowhere\n" for line in lines)
    assert job["cwd"] == str(broker_directory)
