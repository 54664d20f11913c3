"""Large jobs, and bodies that expand to large jobs, beside a real broker."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.test_budgets import ATTACKS, check_attack
from tests.support.flood import MIB
from tests.support.harness import SIDECAR, Broker, Server, embedded, eventually

pytestmark = pytest.mark.flux

Started = Callable[[Any], Any]


def limited(broker: Broker, directory: Path) -> Server:
    argv = ["prlimit", f"--as={600 * MIB}", SIDECAR, "serve", "--port", "0", "--uri", broker.uri, "--send-timeout", "3"]
    return Server(argv, directory)


def test_attacks_with_little_memory(tmp_path: Path, started: Started) -> None:
    """The broker keeps responding, whatever the sizes of the jobs."""
    broker = started(Broker(tmp_path)).running()
    server = started(limited(broker, tmp_path)).ready()
    peer = started(embedded(tmp_path / "peer")).ready()
    for attack in ("flags", "envars", "words", "lists and texts"):
        check_attack(server, peer, ATTACKS[attack])
        assert server.http.get("/readyz").status_code == 200
    assert "has not answered" not in server.text()
    assert server.stop().status_code == 202
    assert server.wait() == 0
    assert broker.wait() == 0


def test_job_with_the_maximum_of_members(tmp_path: Path, started: Started) -> None:
    """Flux runs a job with as many members as the server accepts."""
    broker = started(Broker(tmp_path)).running()
    server = started(limited(broker, tmp_path)).ready()
    variables = {f"A{number}": "a" * 60 for number in range(9_900)}
    options: dict[str, Any] = {"x": [[]] * 9_900}
    script = 'test "$A0$A9899" = "$1" && env | grep -c "^A[0-9]*=a*$"'
    job = server.run(["sh", "-c", script, "sh", "a" * 120], envars=variables, option_flags=options, within=60)
    assert job["returncode"] == 0
    assert server.output(job["id"]) == ["9900\n"]
    spec = eventually(lambda: server.http.get(f"/v1/jobs/{job['id']}/jobspec").json(), what="its jobspec")
    assert spec["attributes"]["system"]["shell"]["options"]["x"] == json.loads(json.dumps(options["x"]))
