"""The guides: their commands, pasted unchanged into common shells, and their Python."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sidecar
from tests.contract.test_readme import README, SHELLS, run_page
from tests.support import harness
from tests.support.harness import ROOT, Server

DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", ["tutorial", "migrate"])
@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.jq
def test_commands_for_a_laptop(tmp_path: Path, shell: str, page: str) -> None:
    run_page(DOCS / f"{page}.md", shell, "embedded", tmp_path)


@pytest.mark.parametrize("page", ["usage", "faq"])
@pytest.mark.parametrize("shell", [SHELLS[0], SHELLS[-1]])
@pytest.mark.jq
def test_reference_pages(tmp_path: Path, shell: str, page: str) -> None:
    run_page(DOCS / f"{page}.md", shell, "embedded", tmp_path)


def snippet(page: str) -> str:
    """Return the Python code of a page."""
    [found] = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


def test_python_client(own_server: Callable[..., Server]) -> None:
    server = own_server()
    *lines, shown, stop = snippet("usage.md").strip().splitlines()
    names: dict[str, Any] = {}
    exec("\n".join(lines).replace("http://127.0.0.1:5000", server.url), names)  # noqa: S102
    expression, _, result = shown.partition("  # ")
    expected = eval(result.rpartition(" a moment")[0])  # noqa: S307
    harness.eventually(lambda: eval(expression, names) == expected)  # noqa: S307
    exec(stop, names)  # noqa: S102
    names["client"].session.close()  # the client never closes it
    assert server.wait() == 0


def test_event_reader(own_server: Callable[..., Server]) -> None:
    server = own_server()
    names: dict[str, Any] = {}
    exec(snippet("faq.md"), names)  # noqa: S102
    job = server.run(["true"])["id"]
    found: Iterator[dict[str, Any]] = names["events"](server.url)
    assert next(event for event in found if event["state"] == "INACTIVE")["id"] == job
    found.close()  # type: ignore[attr-defined]


@pytest.mark.long
def test_installation_in_a_virtual_environment(tmp_path: Path) -> None:
    """As the README installs it, with pip."""
    row = next(line for line in README.read_text().splitlines() if "with pip alone" in line)
    make, install, command = re.findall(r"`([^`]+)`", row)[:3]
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin",
        "PIP_CACHE_DIR": str(Path.home() / ".cache/pip"),
    }
    for line in (make, install, f"{command} --version"):
        done = subprocess.run(["bash", "-c", line], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == sidecar.__version__
