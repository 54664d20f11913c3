"""The commands of the README, pasted unchanged into common shells."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.support import pages
from tests.support.harness import ROOT

README = ROOT / "README.md"
#: Pages with commands for a laptop.
PAGES = [
    page
    for page in (README, *(ROOT / f"docs/{name}.md" for name in ("usage", "tutorial", "migrate", "faq")))
    if page.exists()
]
SHELLS = ("bash", pytest.param("zsh", marks=pytest.mark.zsh), pytest.param("tcsh", marks=pytest.mark.tcsh))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def run_page(page: Path, shell: str, kind: str, directory: Path) -> str:
    """Run all commands of a page that are for this machine; return the output of the server's terminal."""
    port = free_port()
    with pages.session(shell, kind, directory, port) as session:
        for block in pages.blocks(page):
            if block.where in ("", "bash", "tcsh", "server"):
                printed = session.run(block)
                if printed:
                    pages.compare(block, printed, port)
            if any("service/stop" in command for command in block.commands):
                pages.wait_closed(f"http://127.0.0.1:{port}/livez")
        assert "urn:flux-sidecar:problem" not in session.user.output
        return session.server.output


def test_two_commands() -> None:
    text = README.read_text()
    assert re.search(r"^make run ", text, re.MULTILINE)
    assert re.search(r"^make test ", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_no_comments(page: Path) -> None:
    """An interactive zsh takes a comment for arguments."""
    for block in pages.blocks(page):
        assert [
            command for command in block.commands if block.where != "cluster" and re.search(r"\s#\s", command)
        ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_bash_commands_have_a_tcsh_variant(page: Path) -> None:
    found = [block.where.rpartition("-")[2] for block in pages.blocks(page)]
    pairs = [where for where in found if where in ("bash", "tcsh")]
    assert pairs == ["bash", "tcsh"] * (len(pairs) // 2)


@pytest.mark.parametrize(
    ("shell", "kind"),
    [
        ("bash", "embedded"),
        pytest.param("zsh", "embedded", marks=pytest.mark.zsh),
        pytest.param("tcsh", "embedded", marks=pytest.mark.tcsh),
        pytest.param("bash", "flux", marks=pytest.mark.flux),
    ],
)
@pytest.mark.jq
def test_session(tmp_path: Path, shell: str, kind: str) -> None:
    server = run_page(README, shell, kind, tmp_path)
    assert "listens on http://127.0.0.1:" in server
