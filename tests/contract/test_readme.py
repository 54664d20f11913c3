"""The README's session, word for word, in the shells that people use."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support import harness

ROOT = Path(__file__).parents[2]
_SECTIONS = ("A session", "Streaming and bulk", "Stop")
_MARK = "@@@"
#: What differs from a person's terminal: the port, the directory, and an end of the streams that have none.
_BEFORE = """
make() {{ command make --no-print-directory -C {root} "$@"; }}
curl() {{
  case "$*" in
    *v1/events*) timeout 3 curl "$@" || [ $? = 124 ] ;;
    *) command curl --no-progress-meter "$@" ;;
  esac
}}
"""
_AFTER_MAKE = "until curl -sf -o {nowhere} http://localhost:{port}/readyz; do kill -0 $!; sleep 0.1; done"


class Step(NamedTuple):
    """A command, and what the README shows of its output."""

    command: str
    shown: str


def steps() -> list[Step]:
    """Return the session in the order of the README."""
    found = []
    for section in re.split(r"^## ", (ROOT / "README.md").read_text(), flags=re.MULTILINE):
        if section.partition("\n")[0] not in _SECTIONS:
            continue
        for block in re.findall(r"^```console\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
            for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
                lines = text.splitlines()
                end = next(number for number, line in enumerate(lines, 1) if not line.endswith("\\"))
                found.append(Step("\n".join(lines[:end]), "\n".join(lines[end:]).strip()))
    return found


def _script(port: int) -> str:
    lines = [_BEFORE.format(root=ROOT)]
    for number, (command, _) in enumerate(steps()):
        lines += [f"echo; echo {_MARK} {number}", command.replace("localhost:5000", f"localhost:{port}")]
        if command.startswith("make run"):
            lines.append(_AFTER_MAKE.format(nowhere=os.devnull, port=port))
        lines.append(f"code=$?; echo; echo {_MARK} exit $code" if "$?" not in command else "")
    return "\n".join(lines)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_no_comments() -> None:
    """An interactive zsh takes them for arguments."""
    assert [step.command for step in steps() if " # " in step.command] == []


@pytest.mark.parametrize(
    ("shell", "kind"),
    [
        ("bash", "embedded"),
        pytest.param("zsh", "embedded", marks=pytest.mark.zsh),
        pytest.param("bash", "flux", marks=pytest.mark.flux),
    ],
)
@pytest.mark.jq
def test_the_session(tmp_path: Path, shell: str, kind: str) -> None:
    port = _free_port()
    environment = {**os.environ, "FLUX_SIDECAR_PORT": str(port)}
    if kind == "embedded":
        environment["MAKEFLAGS"] = "FLUX="  # as on a machine that has none
    options = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"]}[shell]
    argv = [str(shutil.which(shell)), *options, "-c", _script(port)]
    with subprocess.Popen(
        argv, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=harness.PATIENCE * 2)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    print(output)
    parts = re.split(rf"^{_MARK} (\d+)\n", output, flags=re.MULTILINE)[1:]
    for step, text in zip(steps(), parts[1::2], strict=True):
        _compare(step, text)
    assert f"listens on http://127.0.0.1:{port}" in output
    assert "urn:flux-sidecar:problem" not in output
    assert process.returncode == 0


def _compare(step: Step, text: str) -> None:
    """Hold what came against what the README shows: the same members, or the same words."""
    assert not re.findall(rf"^{_MARK} exit [^0]", text, flags=re.MULTILINE), step.command
    if step.shown.startswith("{"):
        [came] = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        assert came.keys() == json.loads(step.shown).keys(), step.command
    elif step.shown and step.shown.isdecimal():
        assert step.shown in text.split(), step.command
