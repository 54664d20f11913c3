"""The store when its disk or its file fails: the error is reported, and a stop still ends the server."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.support import harness
from tests.support.harness import SIDECAR, Server, eventually
from tests.support.metrics import scrape
from tests.support.sse import messages

Start = Callable[..., Any]
Fault = Callable[[Server, Path], AbstractContextManager[None]]


def _process(server: Server) -> int:
    """Return the server's own pid: on Flux it is the initial program, a child of the broker."""
    kind = server.http.get("/v1/service").json()["instance"]["kind"]
    return server.pid if kind == "embedded" else server.child("/flux-sidecar serve")


@contextlib.contextmanager
def _no_larger_files(server: Server, path: Path) -> Iterator[None]:
    """Let writes fail with EFBIG, which SQLite reports as an I/O error."""
    pid = _process(server)
    size = path.with_name(f"{path.name}-wal").stat().st_size
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield


@contextlib.contextmanager
def _locked(server: Server, path: Path) -> Iterator[None]:
    """Lock the file as another program."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@contextlib.contextmanager
def _deleted(server: Server, path: Path) -> Iterator[None]:
    shutil.rmtree(path.parent)
    yield


@contextlib.contextmanager
def _damaged(server: Server, path: Path) -> Iterator[None]:
    """Damage the file, and read it: SQLite has a large part in memory and notices late."""
    _damage(path)
    for read in ("/v1/jobs/search?query=true", "/v1/jobs?details=true", "/v1/queues", "/v1/jobs?user=nobody"):
        with contextlib.suppress(httpx.RemoteProtocolError):  # a started response is aborted
            assert server.http.get(read).status_code in (200, 503)
    yield


def _ended(pid: int) -> bool:
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def _damage(path: Path) -> None:
    """Overwrite all pages but the first, and the write-ahead log."""
    for each in (path, path.with_name(f"{path.name}-wal")):
        with contextlib.suppress(FileNotFoundError), each.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(4096)
            file.write(b"\xa5" * max(0, size - 4096))


@pytest.mark.parametrize("fault", [_no_larger_files, _locked, _deleted, _damaged])
def test_stop_ends_with_a_failing_store(own_server: Start, tmp_path: Path, fault: Fault) -> None:
    path = tmp_path / "store" / "jobs.sqlite"
    first = own_server("--store", str(path))
    first.stop()
    assert first.wait() == 0  # its writes are in the file now, and not only in the write-ahead log
    server = own_server("--store", str(path))
    for _ in range(3):
        server.run("true")
    with fault(server, path):
        for _ in range(20):
            server.http.post("/v1/jobs/submit", json={"command": "true"})
        response = eventually(
            lambda: (ready := server.http.get("/readyz?verbose")).status_code == 503 and ready, what="a failed check"
        )
        assert "[-]" in str(problem(response, 503)["Errors"])
        assert server.http.get("/livez").status_code == 200, "a restart alone would not repair it"
        pid = _process(server)
        assert server.stop().status_code == 202
        eventually(lambda: _ended(pid), within=20, what="the server's own end")
        assert server.wait(90) == 0  # including Flux, which is slow on a busy machine
    assert server.text().count("events cannot be stored") <= 1
    assert not server.leftovers()


@pytest.mark.parametrize("fault", [_no_larger_files, _locked, _damaged])
def test_drain_ends_with_a_failing_store(own_server: Start, tmp_path: Path, fault: Fault) -> None:
    """It waits for the end of the jobs, not until that is stored."""
    path = tmp_path / "store" / "jobs.sqlite"
    server = own_server("--store", str(path))
    flag = tmp_path / "flag"
    job = server.submit(["sh", "-c", f"while ! test -e {flag}; do sleep 0.05; done"])
    server.state(job, "RUN")
    with fault(server, path):
        server.submit("true")
        assert server.stop(mode="drain").json()["state"] == "draining"
        assert server.http.get("/v1/service").json()["active_jobs"] >= 1
        flag.touch()
        assert server.wait(90) == 0
    assert not server.leftovers()


def test_idle_instance_is_stopped_with_a_failing_store(own_server: Start, tmp_path: Path) -> None:
    path = tmp_path / "store" / "jobs.sqlite"
    server = own_server("--store", str(path), "--idle-stop", "2s")
    job = server.submit("sleep 1")
    server.state(job, "RUN")
    with _locked(server, path):
        assert server.wait(90) == 0
    assert "idle for 2s" in server.text()


def _mounts() -> list[str] | None:
    """Return the start of a command line that gives a program a mount namespace; None if that is not allowed."""
    for flags in (["--mount"], ["--mount", "--map-root-user"]):
        argv = ["unshare", *flags, "sh", "-c"]
        if subprocess.run([*argv, "mount -t tmpfs none /mnt"], capture_output=True).returncode == 0:
            return argv
    return None


@pytest.mark.parametrize("kind", ["embedded", pytest.param("flux", marks=pytest.mark.flux)])
def test_disk_that_is_full_temporarily(kind: str, tmp_path: Path, started: Start) -> None:
    """Submits are refused once the disk is known to be full; no accepted job is denied or lost."""
    if (mounts := _mounts()) is None:
        pytest.skip("file systems cannot be mounted on this machine")
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    serve = f"{SIDECAR} serve --port 0 --store {tiny}/jobs.sqlite --min-free-disk 0"
    run = f"flux start {serve}" if kind == "flux" else f"{serve} --embedded"
    server = started(Server([*mounts, f"mount -t tmpfs -o size=8m none {tiny} && exec {run}"], tmp_path)).ready()
    known = server.run("true")["id"]
    filler = Path(f"/proc/{_process(server)}/root{tiny}/fill")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 1024)
    accepted, refused = _submit_until_refused(server)
    assert accepted, "no submit is refused before the first failed write"
    body = problem(refused, 503)
    assert "full" in body["detail"]
    assert body["lag"] > 0
    assert int(refused.headers["Retry-After"]) >= 1
    for path in ("/v1/jobs", f"/v1/jobs/{accepted[-1]}", "/v1/jobs/search", "/v1/jobs?details=true", "/v1/queues"):
        started_at = time.monotonic()
        assert problem(server.http.get(path), 503)["lag"] > 0, path
        assert time.monotonic() - started_at < 2, path
    assert problem(server.http.post("/v1/jobs/cancel", json={"state": "active"}), 503)["lag"] > 0
    assert server.http.get(f"/v1/jobs/{known}").status_code == 200, "the job is stored, and no command on it is pending"
    checks = problem(server.http.get("/readyz?verbose"), 503)["Errors"]
    assert any(line.startswith("[-]stored") and "full" in line for line in checks), checks
    assert scrape(server.http)("flux_sidecar_journal_lag_seconds") > 1
    filler.unlink()
    server.ready()
    listed = {each["id"] for each in server.http.get("/v1/jobs").json()["jobs"]}
    assert listed >= {known, *accepted}
    assert server.run("true")["result"] == "COMPLETED"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 1024)
    server.submit("true")
    assert server.stop().status_code == 202
    assert server.wait(90) == 0


def _submit_until_refused(server: Server) -> tuple[list[int], Any]:
    accepted: list[int] = []
    for _ in range(500):
        response = server.http.post("/v1/jobs/submit", json={"command": "true"})
        if response.status_code != 200:
            return accepted, response
        accepted.append(response.json()["id"])
        time.sleep(0.02)
    raise AssertionError("no submit was refused")


def test_unusable_file_is_refused_at_once(tmp_path: Path) -> None:
    directory = tmp_path / "stores"
    directory.mkdir()
    database = directory / "database"
    with contextlib.closing(sqlite3.connect(database)) as db:
        db.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (zeroblob(100000)); PRAGMA user_version = 4;")
    damaged, short, text = directory / "damaged", directory / "short", directory / "text"
    for each in (damaged, short):
        shutil.copy(database, each)
    _damage(damaged)
    os.truncate(short, 5000)
    text.write_text("this is not a database, and long enough to be recognized as something else" * 20)
    (directory / "a directory").mkdir()
    loop, foreign = directory / "loop", directory / "foreign"
    loop.symlink_to(loop)
    with contextlib.closing(sqlite3.connect(foreign)) as db:
        db.execute("CREATE TABLE t (a)")
    before = foreign.read_bytes()
    wrong = (damaged, short, text, directory / "a directory", loop / "s", foreign, "/proc/missing/s", "/dev/null", "~nosuch/s")  # fmt: skip
    for path in wrong:
        process = subprocess.run(
            [SIDECAR, "serve", "--embedded", "--port", "0", "--store", str(path)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert process.returncode == 2, (path, process.stderr)
        assert str(path) in process.stderr.splitlines()[-1]
        assert "--store" in process.stderr.splitlines()[-1]
        assert "Traceback" not in process.stderr
    assert foreign.read_bytes() == before
    assert not Path("/dev/null.lock").exists()


def test_stream_ends_with_the_reason_if_the_store_cannot_be_read(tmp_path: Path, started: Start) -> None:
    """The last events in memory do not help a reader that starts with the first."""
    path = tmp_path / "jobs.sqlite"
    first = started(harness.embedded(tmp_path, "--store", str(path))).ready()
    job = first.run("true")["id"]
    first.stop()
    assert first.wait() == 0
    server = started(harness.embedded(tmp_path, "--store", str(path))).ready()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("ALTER TABLE events RENAME TO elsewhere")
    for route in ("/v1/events", f"/v1/jobs/{job}/events"):
        [last] = messages(server, route, after=0)
        assert last.event == "end"
        assert last.data["reason"] == "unavailable"
        assert str(path) in last.data["detail"]
    assert "a request failed" not in server.text()


@pytest.mark.parametrize("spelling", ["same", "symbolic link", "hard link", "relative"])
def test_store_is_used_by_one_server_only(spelling: str, tmp_path: Path, started: Start) -> None:
    """The second one exits with 2 and names the first; if that is killed, the next one starts at once."""
    path = tmp_path / "stores" / "jobs.sqlite"
    first = started(harness.embedded(tmp_path / "first", "--store", str(path))).ready()
    job = first.submit("sleep 600")
    other = path
    if "link" in spelling:
        (tmp_path / "elsewhere").mkdir()
        other = tmp_path / "elsewhere" / "other.sqlite"
        if spelling == "hard link":
            other.hardlink_to(path)
        else:
            other.symlink_to(path)
    elif spelling == "relative":
        other = Path("../stores/../stores/jobs.sqlite")
    second = started(harness.embedded(tmp_path / "second", "--store", str(other)))
    assert second.wait(20) == 2
    error = second.text().strip().splitlines()[-1]
    assert "in use by" in error
    if spelling != "hard link":  # it has another lock file
        assert f"pid {first.pid}" in error
        assert os.uname().nodename in error
        assert first.url in error
    assert first.state(job, "RUN")
    assert first.run("true")["result"] == "COMPLETED"
    os.kill(first.pid, 9)
    first.wait()
    third = started(harness.embedded(tmp_path / "third", "--store", str(path))).ready()
    assert third.job(job)["state"] == "INACTIVE"
    assert third.stop().status_code == 202
    assert third.wait() == 0
