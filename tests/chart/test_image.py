"""What the image is built from; `make image` builds it."""

from __future__ import annotations

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.harness import BIN, ROOT

_LOCKED = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def locked(name: str) -> dict[str, str]:
    return dict(_LOCKED.findall((ROOT / "image" / name).read_text()))


def missing(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """Return the requirements that a lock file does not meet."""
    wanted = [Requirement(each) for each in requirements]
    return [str(each) for each in wanted if not each.specifier.contains(versions.get(each.name, "0"))]


def test_the_lock_files_are_up_to_date() -> None:
    """`make lock` writes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    flux = [each for each in project["project"]["optional-dependencies"]["flux"] if "flux-python" not in each]
    assert not missing([*project["project"]["dependencies"], *flux], locked("server.lock"))
    assert not missing(project["build-system"]["requires"], locked("build.lock"))
    assert set(locked("flux.lock")) == {"flux-python"}


def test_every_locked_version_has_its_hashes() -> None:
    for file in ROOT.glob("image/*.lock"):
        for part in re.split(r"^(?=[a-z])", file.read_text(), flags=re.MULTILINE)[1:]:
            assert "--hash=sha256:" in part, part


def test_base_and_bindings_are_of_one_version() -> None:
    base = re.search(r"^ARG BASE_IMAGE=\S+-v([\d.]+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert base is not None
    assert base[1] == locked("flux.lock")["flux-python"]


def test_what_the_containerfile_promises() -> None:
    text = (ROOT / "Containerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    assert text.count("--require-hashes") == 2
    assert "HEALTHCHECK" in last
    # A variable of the image would be one of every job.
    assert not re.search(r"^ENV ", text, re.MULTILINE)
    assert "latest" not in text
    assert not re.search(r"(secret|token|password)", text, re.IGNORECASE)


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="there is no hadolint for this machine")
def test_hadolint() -> None:
    done = subprocess.run([BIN / "hadolint", "Containerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
