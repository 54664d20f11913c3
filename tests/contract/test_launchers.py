"""Workflow launchers: they run beside the server, can be followed, and end with it."""

from __future__ import annotations

import os
import stat
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import Server, eventually


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    """A program called snakemake, which prints its arguments and waits for a file."""
    program = tmp_path / "bin" / "snakemake"
    program.parent.mkdir()
    program.write_text(
        textwrap.dedent("""\
        #!/bin/sh
        echo "workflow $1 on $FLUX_URI with $STEPS in $(pwd)"
        echo "a warning" >&2
        while test "$1" = wait && ! test -e "$2"; do sleep 0.05; done
        exit 7
        """)
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program.parent


@pytest.fixture
def server(own_server: Callable[..., Server], workflow: Path) -> Server:
    return own_server(PATH=f"{workflow}:{os.environ['PATH']}")


def launch(server: Server, command: str, **parameters: object) -> int:
    body = {"command": command, "is_launcher": True, **parameters}
    answer = server.http.post("/v1/jobs/submit", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["id"] == "MANY"
    assert answer.headers["Location"] == f"../../v1/launchers/{answer.json()['launcher']}"
    return int(answer.json()["launcher"])


def test_followed_and_listed(server: Server, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    number = launch(server, f"snakemake wait {flag}", envars={"STEPS": "3 steps"}, workdir="/usr")
    running = server.http.get(f"/v1/launchers/{number}").json()
    assert (running["state"], running["returncode"], running["t_end"]) == ("running", None, None)
    assert running["command"][0] == "snakemake"
    assert server.http.get("/v1/service").json()["running_launchers"] == 1
    flag.touch()

    def ended() -> bool:
        return bool(server.http.get(f"/v1/launchers/{number}").json()["state"] == "ended")

    eventually(ended)
    assert server.http.get("/v1/launchers").json()["launchers"][0]["returncode"] == 7
    uri = server.http.get("/v1/service").json()["instance"]["uri"]
    uri = "" if uri == "embedded" else uri
    output = server.http.get(f"/v1/launchers/{number}/output").json()["Output"]
    assert output == [f"workflow wait on {uri} with 3 steps in /usr\n", "a warning\n"]
    again = server.http.post(f"/v1/launchers/{number}/cancel")
    assert again.status_code == 409
    assert "has ended with code 7" in again.json()["detail"]


def test_removed_output(own_server: Callable[..., Server], workflow: Path, tmp_path: Path) -> None:
    server = own_server(PATH=f"{workflow}:{os.environ['PATH']}", TMPDIR=str(tmp_path))
    number = launch(server, "snakemake run")
    eventually(lambda: server.http.get(f"/v1/launchers/{number}").json()["state"] == "ended")
    (log,) = tmp_path.rglob(f"launchers/{number}.log")
    log.unlink()
    answer = server.http.get(f"/v1/launchers/{number}/output")
    assert answer.status_code == 404
    assert "has been removed" in answer.json()["detail"]


def test_cancelled(server: Server) -> None:
    number = launch(server, "snakemake wait /nowhere")
    assert server.http.post(f"/v1/launchers/{number}/cancel").status_code == 200
    eventually(lambda: server.http.get(f"/v1/launchers/{number}").json()["returncode"] == -15)


def test_drain_waits_for_a_launcher_and_stop_now_ends_it(server: Server) -> None:
    launch(server, "snakemake wait /nowhere")
    assert server.stop(mode="drain").json()["state"] == "draining"
    assert server.http.get("/v1/service").json()["running_launchers"] == 1
    server.stop(mode="now")
    assert server.wait() == 0
    assert not server.leftovers()


def test_known_name_runs_the_configured_program(server: Server, workflow: Path, tmp_path: Path) -> None:
    """Whatever program with that name is on the caller's PATH."""
    mine = tmp_path / "mine" / "snakemake"
    mine.parent.mkdir()
    mine.write_text("#!/bin/sh\necho mine\n")
    mine.chmod(0o755)
    number = launch(server, "snakemake run", envars={"STEPS": "none", "PATH": f"{mine.parent}:/usr/bin:/bin"})
    eventually(lambda: server.http.get(f"/v1/launchers/{number}").json()["state"] == "ended")
    assert "workflow run" in server.http.get(f"/v1/launchers/{number}/output").text


def test_launcher_that_cannot_start(own_server: Callable[..., Server]) -> None:
    server = own_server("--launchers", "no-such-launcher")
    answer = server.http.post("/v1/jobs/submit", json={"command": "no-such-launcher", "is_launcher": True})
    assert answer.status_code == 400
    assert "not in the instance's PATH" in answer.json()["detail"]
    refused = server.http.post("/v1/jobs/submit", json={"command": "snakemake", "is_launcher": True})
    assert "not a known launcher (--launchers): no-such-launcher" in refused.json()["detail"]
