"""The files from which `make image` builds the image."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.support.authority import Authority, options
from tests.support.harness import BIN, ROOT, Process, embedded, eventually

_LOCKED = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)


def locked(name: str) -> dict[str, str]:
    return dict(_LOCKED.findall((ROOT / "image" / name).read_text()))


def missing(requirements: list[str], versions: dict[str, str]) -> list[str]:
    """Return the requirements that a lock file does not satisfy."""
    wanted = [Requirement(each) for each in requirements]
    return [str(each) for each in wanted if not each.specifier.contains(versions.get(each.name, "0"))]


def test_lock_files_are_up_to_date() -> None:
    """`make lock` writes them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    flux = [each for each in project["project"]["optional-dependencies"]["flux"] if "flux-python" not in each]
    assert not missing([*project["project"]["dependencies"], *flux], locked("server.lock"))
    assert not missing(project["build-system"]["requires"], locked("build.lock"))
    assert set(locked("flux.lock")) == {"flux-python"}


def test_locked_versions_have_hashes() -> None:
    for file in ROOT.glob("image/*.lock"):
        for part in re.split(r"^(?=[a-z])", file.read_text(), flags=re.MULTILINE)[1:]:
            assert "--hash=sha256:" in part, part


def test_base_and_bindings_have_one_version() -> None:
    base = re.search(r"^ARG BASE_IMAGE=\S+-v([\d.]+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    assert base is not None
    assert base[1] == locked("flux.lock")["flux-python"]


def test_build_context_contains_all_sources() -> None:
    """.dockerignore hides everything else from the build."""
    seen = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", (ROOT / "Containerfile").read_text(), re.MULTILINE)
    sources = [source for line in copies for source in line.split()]
    assert "flux_sidecar.py" in sources
    for source in sources:
        assert source.partition("/")[0] in seen, f"{source} is hidden by .dockerignore"
        assert list(ROOT.glob(source)), f"{source} is not there"


def test_containerfile() -> None:
    text = (ROOT / "Containerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    assert text.count("--require-hashes") == 2
    assert "HEALTHCHECK" in last
    # A variable of the image would be in the environment of every job.
    assert not re.search(r"^ENV ", text, re.MULTILINE)
    assert "latest" not in text
    assert not re.search(r"(secret|token|password)", text, re.IGNORECASE)


def test_readiness_check(tmp_path: Path, started: Callable[[Process], Any]) -> None:
    """The health check of the image, and of the workload `job`."""

    def ready(**variables: str) -> int:
        return subprocess.run([ROOT / "image/ready"], env=os.environ | variables, timeout=60).returncode

    server = started(embedded(tmp_path))
    port = server.ready().url.rpartition(":")[2]
    assert ready(FLUX_SIDECAR_PORT=port) == 0
    server.stop()
    assert server.wait() == 0
    assert ready(FLUX_SIDECAR_PORT=port) == 1
    assert ready(FLUX_SIDECAR_PORT=port, JOB_COMPLETION_INDEX="1") == 0  # a follower's server does not listen


def test_liveness_check(tmp_path: Path, started: Callable[[Process], Any]) -> None:
    """The liveness probe of the workload `job`: without and with TLS, and while the server is not ready."""
    files = Authority(tmp_path).serve()
    for more, tls in (([], ""), (options(files), str(files[0]))):
        server = started(embedded(tmp_path, *more))
        port = server.url.rpartition(":")[2]

        def alive(port: str = port, tls: str = tls) -> int:
            variables = {"FLUX_SIDECAR_PORT": port, "FLUX_SIDECAR_TLS_CERT": tls, "PYTHON": sys.executable}
            return subprocess.run([ROOT / "image/ready", "/livez"], env=os.environ | variables, timeout=30).returncode

        eventually(lambda a=alive: a() == 0, what="liveness")  # type: ignore[misc]
        server.signal(signal.SIGSTOP)  # its port is still open
        assert alive() != 0
        server.signal(signal.SIGCONT)
        eventually(lambda a=alive: a() == 0, what="liveness again")  # type: ignore[misc]


@pytest.mark.flux
def test_pods_generate_the_same_certificate(tmp_path: Path) -> None:
    """From the same seed, with libzmq, which Flux requires."""
    spec = importlib.util.spec_from_file_location("curve", ROOT / "helm/flux-sidecar/files/curve.py")
    assert spec is not None
    assert spec.loader is not None
    curve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(curve)
    made = [tmp_path / name for name in ("one", "two", "other")]
    for path in made:
        curve.main(str(path), "another" if path.name == "other" else "seed")
    assert made[0].read_text() == made[1].read_text() != made[2].read_text()
    assert made[0].stat().st_mode & 0o777 == 0o600
    # As Flux writes and reads it; tests/e2e starts brokers with it.
    text = made[0].read_text()
    assert re.fullmatch(
        r'metadata\n    name = "\w+"\ncurve\n    public-key = "\S{40}"\n    secret-key = "\S{40}"\n', text
    )


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="there is no hadolint for this machine")
def test_hadolint() -> None:
    done = subprocess.run([BIN / "hadolint", "Containerfile"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
