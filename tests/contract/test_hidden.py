"""What a job of the server's user can read of the server, when both share files and processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.harness import Server, embedded, eventually

_SECRET, _KEY = "password-of-the-test", "key-of-the-test-that-is-long-enough-0123456789"
_OTEL = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret-of-the-test", "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "a=b"}


def start(started: Callable[[Any], Any], directory: Path, *options: str) -> Server:
    server = embedded(directory, *options, FLUX_USER="alice", FLUX_TOKEN=_SECRET, FLUX_SECRET_KEY=_KEY, **_OTEL)
    made: Server = started(server)
    assert made.url
    made.http.auth = ("alice", _SECRET)
    return made


def test_secrets_are_not_in_the_environment(tmp_path: Path, started: Callable[[Any], Any]) -> None:
    """Neither in the server's, as the kernel shows it, nor in a job's; the password still works."""
    server = start(started, tmp_path)
    shown = Path(f"/proc/{server.pid}/environ").read_bytes().decode()
    assert "FLUX_TOKEN=x" in shown
    for text in (_SECRET, _KEY, "secret-of-the-test"):
        assert text not in shown
    job = server.submit(["sh", "-c", "env; tr '\\0' '\\n' </proc/$PPID/environ"])
    server.ended(job)
    lines = server.output(job)
    assert any(line.startswith("PATH=") for line in lines)
    for text in (_SECRET, _KEY, "OTEL_EXPORTER_OTLP_HEADERS=a", "OTEL_EXPORTER_OTLP_TRACES_HEADERS=a"):
        assert not any(text in line for line in lines)


def test_processes_of_the_same_user_cannot_inspect_the_server() -> None:
    script = "; ".join(
        (
            "import ctypes",
            "from sidecar.config import secrets",
            "libc = ctypes.CDLL(None)",
            "before = libc.prctl(3, 0, 0, 0, 0)",
            "secrets.forbid_inspection()",
            "print(before, libc.prctl(3, 0, 0, 0, 0))",  # PR_GET_DUMPABLE
        )
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["1", "0"]


def test_warning_if_submit_implies_admin(tmp_path: Path, started: Callable[[Any], Any]) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("")
    server = start(started, tmp_path, "--socket", str(tmp_path / "socket"), "--tokens", str(tokens))
    eventually(lambda: "is admin through it" in server.text(), what="the warning about the socket")
    assert "can add a token to it" in server.text()
