"""``--idle-stop`` beside brokers that were started in other ways, and with jobs of Flux's own commands."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.harness import Broker, Server, beside, eventually, flux_start

Start = Callable[[Any], Any]


def _service(server: Server) -> dict[str, Any]:
    return dict(server.http.get("/v1/service").json())


def test_server_beside_a_broker_ends_both_with_0(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path))
    server = started(beside(broker, tmp_path, "--idle-stop", "2s"))
    assert server.wait() == 0
    assert broker.wait() == 0
    assert "idle for 2s" in server.text()


def test_job_of_flux_submit_is_a_use(tmp_path: Path, started: Start) -> None:
    """Also one that is too short to be seen active."""
    server = started(flux_start(tmp_path, "--idle-stop", "30m")).ready()
    left = eventually(lambda: _service(server)["idle_left"])
    eventually(lambda: _service(server)["idle_left"] < left - 5)
    uri = _service(server)["instance"]["uri"]
    subprocess.run(["flux", "run", "true"], env={**os.environ, "FLUX_URI": uri}, check=True, timeout=60)
    eventually(lambda: (_service(server)["idle_left"] or 0) > left - 5, within=4, what="the restarted countdown")


def test_another_initial_program_prevents_the_stop(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path, program=["sleep", "600"]))
    server = started(beside(broker, tmp_path, "--idle-stop", "100ms")).ready()
    eventually(lambda: "another initial program runs" in server.text(), what="a warning")
    found = _service(server)
    assert (found["state"], found["idle_stop"], found["idle_left"]) == ("running", 0.1, None)
    assert server.run("true")["result"] == "COMPLETED"
    assert server.text().count("--idle-stop does nothing") == 1


def test_history_with_an_active_job(tmp_path: Path, started: Start) -> None:
    broker = started(Broker(tmp_path)).running()
    flag = tmp_path / "flag"
    submit = ("submit", "sh", "-c", f"while ! test -e {flag}; do sleep 0.05; done")
    eventually(lambda: broker.run(*submit).returncode == 0, what="a job manager that accepts jobs")
    server = started(beside(broker, tmp_path, "--idle-stop", "500ms")).ready()
    found = _service(server)
    assert (found["state"], found["active_jobs"], found["idle_left"]) == ("running", 1, None)
    flag.touch()
    assert server.wait() == 0
    assert broker.wait() == 0
