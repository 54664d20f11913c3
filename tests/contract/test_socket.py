"""The Unix socket: callers are identified by their uid."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.test_errors import problem
from tests.support.harness import SIDECAR, Process, Server, embedded, eventually

Start = Callable[[Any], Any]

_NOBODY = 65534
_ASK = """
import http.client, os, socket, sys
os.setgid({uid}); os.setuid({uid})
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect({path!r})
connection = Connection("localhost")
connection.request({method!r}, {url!r}, body={body!r}, headers={{"Content-Type": "application/json"}})
print(connection.getresponse().status)
"""


def through(path: Path) -> httpx.Client:
    return httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=60)


def as_user(uid: int, path: Path, method: str, url: str, body: str | None = None) -> str:
    """Send a request as another user; return the status, or the name of the error."""
    script = _ASK.format(uid=uid, path=str(path), method=method, url=url, body=body)
    done = subprocess.run([sys.executable, "-c", script], text=True, capture_output=True, timeout=60)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1].partition(":")[0]


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users can reach; pytest resets the permissions of its own."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_socket_without_the_port(tmp_path: Path, started: Start) -> None:
    path = tmp_path / "run" / "socket"
    server = started(embedded(tmp_path, "--socket", str(path), "--no-tcp"))
    eventually(path.exists, what="the socket")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with through(path) as client:
        eventually(lambda: client.get("/readyz").status_code == 200)
        me = client.get("/v1/whoami").json()
        assert (me["name"], me["scopes"], me["method"]) == ("root", ["read", "submit", "admin"], "socket")
        job = client.post("/v1/jobs/submit", json={"command": "true"}).json()["f58id"]
        assert client.get(f"/v1/jobs/{job}", params={"wait": 30}).json()["submitter"] == "root"
        assert f"curl --unix-socket {path} " in server.text()
        assert client.post("/v1/service/stop").status_code == 202
    assert server.wait() == 0
    assert not path.exists()
    assert "every user of this machine" not in server.text()


def test_socket_beside_the_port(tmp_path: Path, reachable: Path, started: Start) -> None:
    """Each listener has its own authentication."""
    path = reachable / "socket"
    server = started(embedded(tmp_path, "--socket", str(path), FLUX_TOKEN="a password")).ready()
    problem(server.http.get("/v1/jobs"), 401)
    with through(path) as client:
        assert client.get("/v1/jobs").status_code == 200
        problem(client.get("/v1/jobs", headers={"Authorization": "Bearer x"}), 401)
        assert client.get("/v1/whoami", auth=("fluxuser", "a password")).json()["method"] == "login"
    assert as_user(_NOBODY, path, "GET", "/v1/jobs") == "PermissionError"


@pytest.mark.parametrize(
    ("users", "read", "submit", "stop"),
    [("nobody=read", "200", "403", "403"), (f"{_NOBODY}=submit", "200", "200", "403"), ("*=read", "200", "403", "403"),
     ("daemon=admin", "403", "403", "403")],
)  # fmt: skip
def test_other_users(
    tmp_path: Path, reachable: Path, started: Start, users: str, read: str, submit: str, stop: str
) -> None:
    if os.getuid() != 0:
        pytest.fail("run the tests as root: only root can call as another user")
    path = reachable / "socket"
    server = started(embedded(tmp_path, "--socket", str(path), "--socket-users", users)).ready()
    assert "every user of this machine that reaches the port" in server.text()
    assert as_user(_NOBODY, path, "GET", "/v1/jobs") == read
    assert as_user(_NOBODY, path, "POST", "/v1/jobs/submit", '{"command": "true"}') == submit
    assert as_user(_NOBODY, path, "POST", "/v1/service/stop", "{}") == stop


def test_stale_socket_is_replaced(tmp_path: Path, started: Start) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    first: Server = started(embedded(tmp_path / "1", "--socket", str(path))).ready()
    second = started(Process([SIDECAR, "serve", "--embedded", "--port", "0", "--socket", str(path)], tmp_path / "2"))
    assert second.wait() == 2
    assert "another server listens there" in second.text()
    with through(path) as client:
        assert client.get("/livez").status_code == 200
    assert first.popen.poll() is None


def test_removed_socket_is_recreated(tmp_path: Path, started: Start) -> None:
    """If it is the only listener, no client could reach the server otherwise."""
    path = tmp_path / "socket"
    server = started(embedded(tmp_path, "--socket", str(path), "--no-tcp"))
    eventually(path.exists, what="the socket")
    path.unlink()
    eventually(path.exists, what="the new socket")
    with through(path) as client:
        eventually(lambda: client.get("/readyz").status_code == 200)
        path.unlink()
        path.touch()
        note = "[+]service ok"
        eventually(
            lambda: "another file has taken its place" in client.get("/readyz?verbose").text, what="the log line"
        )
        assert note in client.get("/readyz?verbose").text  # this connection stays open
        assert client.post("/v1/service/stop").status_code == 202
    assert server.wait() == 0
    assert path.exists()
    assert server.text().count("it is created again") == 1
    assert server.text().count("another file has taken its place") == 1
