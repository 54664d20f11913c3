"""Commands of a Markdown page, and shells that run them as a user pastes them.

A block of commands is a fence with the language ``sh``. A word behind it says where it is for:

================= ==================================================================
``bash``          bash and zsh; a block for ``tcsh`` follows it
``tcsh``          tcsh
``server``        the terminal in which the server runs
``cluster-…``     a Kubernetes cluster: tests/chart renders what helm installs
``cluster-setup`` what needs another network, or makes the cluster itself
================= ==================================================================

The fence after a block of commands, of another language, is what its last command prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx

from tests.support import harness

_FENCE = re.compile(r"^ *```(\w+)(?: ([\w-]+))?\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_VARIES = re.compile(r"ƒ\w+|[0-9a-f-]{6,}|\d[\d.]*")
_MARK = "@@@"
_SERVER = re.compile(r"\b(make run|flux-sidecar serve)\b")
_STARTS = {"bash": ["--norc", "--noprofile", "--noediting", "-i"], "zsh": ["-f", "-i"], "tcsh": ["-f", "-i"]}
#: So that the output contains no prompts.
_QUIET = {"tcsh": "set prompt = ''", "zsh": "unsetopt prompt_cr prompt_sp"}
#: Differences from a terminal: the port, the directory of `make`, and an end of streams that have none.
_CURL = """#!/bin/bash
case "$*" in
  *v1/events*) timeout 3 {curl} --no-progress-meter "$@" || [ $? = 124 ] ;;
  *) exec {curl} --no-progress-meter "$@" ;;
esac
"""
_MAKE = '#!/bin/bash\nexec {make} --no-print-directory -C {root} "$@"\n'


class Block(NamedTuple):
    """Commands of one fence, and the text of the fence after it: the output of the last one."""

    commands: list[str]
    where: str
    shown: str
    section: str


def blocks(page: Path) -> list[Block]:
    """Return the commands of a page, in order."""
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for match in _FENCE.finditer(text):
        language, where, body = match[1], match[2] or "", textwrap.dedent(match[3])
        if language == "sh":
            heading = re.findall(r"^#+ (.*)$", text[: match.start()], re.MULTILINE)[-1]
            found.append(Block(_commands(body), where, "", heading))
        elif found and language != "mermaid" and not re.search(r"^#", text[end : match.start()], re.MULTILINE):
            found[-1] = found[-1]._replace(shown=found[-1].shown or body.strip())
        end = match.end()
    return found


def _commands(body: str) -> list[str]:
    """Split a block into commands: a line that ends with a backslash, or starts a here-document, continues."""
    found: list[str] = []
    rest = body.splitlines()
    while rest:
        lines = [rest.pop(0)]
        while lines[-1].endswith("\\"):
            lines.append(rest.pop(0))
        if here := re.search(r"<<-?\s*'?(\w+)'?", lines[-1]):
            while lines[-1] != here[1]:
                lines.append(rest.pop(0))
        if lines[0].strip():
            found.append("\n".join(lines))
    return found


class Terminal:
    """An interactive shell whose input is pasted by a test."""

    def __init__(self, shell: str, directory: Path, environment: dict[str, str]) -> None:
        argv = [str(shutil.which(shell)), *_STARTS[shell]]
        self.shell = shell
        self.process = subprocess.Popen(
            argv, cwd=directory, env=environment, text=True, encoding="utf-8", errors="replace", bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.output = ""
        self._number = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if shell in _QUIET:
            self.paste(_QUIET[shell])

    def _read(self) -> None:
        assert self.process.stdout is not None
        while text := self.process.stdout.read(1):
            self.output += text

    def paste(self, command: str) -> None:
        """Paste a command, and do not wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def run(self, command: str) -> str:
        """Paste a command, wait for its end, and return its output; fail if its exit status is not 0."""
        self._number += 1
        begin, end = f"{_MARK} begin {self._number}", f"{_MARK} end {self._number}"
        self.paste(f"echo '{begin}'")
        self.paste(command)
        self.paste(f'echo; echo "{end} $?"')
        text = harness.eventually(
            lambda: re.search(rf"^.*{begin}\n(.*)^.*{end} (\d+)\n", self.output, re.MULTILINE | re.DOTALL),
            what=f"end of {command} in {self.shell}:\n{self.output}",
        )
        assert text[2] == "0", f"{command}\n{text[1]}"
        return text[1]

    def close(self) -> None:
        """End the shell, and all processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Session:
    """The two terminals of a page: one for the server, one for everything else."""

    def __init__(self, shell: str, kind: str, directory: Path, port: int) -> None:
        self.shell = shell
        self._port = port
        tools = directory / "tools"
        tools.mkdir()
        _script(tools / "curl", _CURL.format(curl=shutil.which("curl")))
        _script(tools / "make", _MAKE.format(make=shutil.which("make"), root=harness.ROOT))
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLUX_", "PYTHON"))}
        environment |= {
            "PATH": f"{tools}:{harness.BIN}:{os.environ['PATH']}",
            "FLUX_SIDECAR_PORT": str(port),
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "SHLVL": "2",
            "PS1": "",
        }
        if kind == "embedded":
            environment["MAKEFLAGS"] = "FLUX="  # as on a machine without Flux
        self.user, self.server = (Terminal(shell, directory, environment) for _ in range(2))

    def run(self, block: Block) -> str:
        """Run a block in its terminal; return the output of its last command."""
        if block.where == ("tcsh" if self.shell != "tcsh" else "bash"):
            return ""
        if block.where != "server":
            return [self.user.run(self._here(command)) for command in block.commands][-1]
        for command in block.commands:
            if not _SERVER.search(command):
                return self.server.run(command)
            self.server.paste(command)
            self._listening()
        return self.server.output

    def _here(self, command: str) -> str:
        return command.replace("localhost:5000", f"localhost:{self._port}")

    def _listening(self) -> None:
        def answers() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(f"http://127.0.0.1:{self._port}/readyz", verify=harness.PLAIN).status_code == 200
            assert self.server.process.poll() is None, self.server.output
            return False

        harness.eventually(answers, what="the server")

    def close(self) -> None:
        for terminal in (self.user, self.server):
            terminal.close()
        print(self.server.output, self.user.output, sep="\n\n")


@contextlib.contextmanager
def session(shell: str, kind: str, directory: Path, port: int) -> Iterator[Session]:
    """Open the terminals; both are closed afterwards."""
    opened = Session(shell, kind, directory, port)
    try:
        yield opened
    finally:
        opened.close()


def _script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def compare(block: Block, printed: str, port: int) -> None:
    """Compare output with that on the page: the members of JSON, and lines without numbers and IDs."""
    if not block.shown:
        return
    assert "urn:flux-sidecar:problem" not in printed, printed
    if block.shown.startswith("{"):
        came = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        assert came, printed
        assert came[-1].keys() == json.loads(block.shown).keys(), block.commands
        return
    lines = {_VARIES.sub("#", line) for line in printed.replace(f":{port}", ":5000").splitlines()}
    for line in block.shown.splitlines():
        assert "{" in line or _VARIES.sub("#", line) in lines, f"{line} is not in:\n{printed}"


def wait_closed(url: str) -> None:
    """Wait until no process listens any more."""
    end = time.monotonic() + harness.PATIENCE
    while time.monotonic() < end:
        try:
            httpx.get(url, verify=harness.PLAIN)
        except httpx.TransportError:
            return
        time.sleep(0.05)
    raise AssertionError(f"{url} still answers")
