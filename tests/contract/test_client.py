"""The predecessor's client from PyPI, unchanged: its test file, its library and its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import flux_restful_client
from flux_restful_client.main import get_client

from tests.support.harness import BIN, Server, eventually


def _run(server: Server, *argv: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FLUX_RESTFUL_HOST": server.url}
    return subprocess.run(argv, env=environment, text=True, capture_output=True)


def test_its_own_test_suite(own_server: Callable[..., Server], tmp_path: Path) -> None:
    """Six tests; the first needs an instance without jobs."""
    tests = Path(flux_restful_client.__file__).parent / "tests" / "test_api.py"
    report = tmp_path / "report.xml"
    done = _run(own_server(), sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "no:cacheprovider", f"--junit-xml={report}",
                f"--rootdir={tmp_path}", str(tests))  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert 'tests="6"' in report.read_text()
    assert "6 passed" in done.stdout


def test_its_command_line(server: Server) -> None:
    """It sends every parameter in the query string, and an object as its Python repr."""
    cli = str(BIN / "flux-restful-cli")
    done = _run(server, cli, "submit", "--num_tasks", "2", "--cores_per_task", "1", "--workdir", "/usr",
                "--env", "GREETING=hello world", "printenv", "GREETING")  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = json.loads(done.stdout)["id"]
    assert server.ended(job)["ntasks"] == 2
    info = json.loads(_run(server, cli, "info", str(job)).stdout)
    assert (info["id"], info["cwd"], info["state"]) == (job, "/usr", "INACTIVE")
    assert _run(server, cli, "logs", str(job)).stdout == "hello world\nhello world\n"
    assert job in [each["id"] for each in json.loads(_run(server, cli, "list-jobs").stdout)["jobs"]]
    assert len(json.loads(_run(server, cli, "list-nodes").stdout)["nodes"]) == 1
    assert "cannot be cancelled" in json.loads(_run(server, cli, "cancel", str(job)).stdout)["Message"]


def test_its_library(own_server: Callable[..., Server]) -> None:
    server = own_server()
    client = get_client(host=server.url)
    job = client.submit("printenv A", envars={"A": "b c"}, option_flags={"verbose": "1"}, exclusive=False)["id"]
    server.ended(job)
    assert client.output(job)["Output"] == ["b c\n"]
    assert client.jobs(job)["returncode"] == 0
    assert list(client.jobs(detail=True)) == [str(job)]
    assert client.jobs(detail=True, listing=True)[0]["id"] == job
    assert client.search("printenv")["recordsFiltered"] == 1
    assert client.jobs(12345) is None
    assert "Message" in client.stop_service()
    client.session.close()  # the client never closes it
    assert eventually(lambda: server.popen.poll() is not None)
    assert server.wait() == 0
