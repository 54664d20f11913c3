"""The client that openapi-python-client generates from the OpenAPI document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.harness import Server

_PROGRAM = Path(__file__).with_name("generated_client.py")
_DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the client; return the directory of its package."""
    directory = tmp_path_factory.mktemp("generated") / "client"
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", str(_DOCUMENT)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*command, "--output-path", str(directory)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING parsing" not in done.stdout.replace("application/x-ndjson", ""), done.stdout
    return directory


def test_generated_client(own_server: Callable[..., Server], package: Path) -> None:
    server = own_server()
    done = subprocess.run(
        [sys.executable, str(_PROGRAM), server.url],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    job = {"id": True, "state": "INACTIVE", "result": "COMPLETED"}
    assert json.loads(done.stdout) == {
        "string": {**job, "output": ["one string\n"], "stream": ["one string\n"]},
        "list": {**job, "output": ["a list\n", "of words\n"], "stream": ["a list\n", "of words\n"]},
        "listed": True,
        "details": True,
        "searched": 1,
        "nodes": 1,
        "bulk": [200, 20, 400],
        "refused": [400, True],
        "missing": [404, "Not found"],
        "cancelled": "CANCELED",
        "cancelled by name": [1, "CANCELED"],
        "service": "running",
        "stop": [202, "stopping"],
    }
    assert server.wait() == 0
