"""Fixtures: every contract test runs on both instances; what needs Flux is counted where there is none."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.harness import Process, Server

_KINDS = ("embedded", pytest.param("flux", marks=pytest.mark.flux))
#: What a marker needs: whether it is there, and what to say of the tests that are left out where it is not.
_NEEDS = {
    "flux": (bool(harness.FLUX), "they need Flux, and `flux` is not on the PATH"),
    "e2e": (
        "KUBECONFIG" in os.environ and "E2E_IMAGE" in os.environ,
        "they need a Kubernetes cluster: make e2e, or make e2e-existing KUBECONFIG=... IMAGE=...",
    ),
    "crd": (
        "KUBECONFIG" in os.environ or "MINICLUSTER_CRD" in os.environ,
        "they need the operator's CRD: MINICLUSTER_CRD=FILE, or KUBECONFIG of a cluster that has it",
    ),
    "prometheus": (bool(harness.PROMTOOL), "they need Debian's prometheus, which make installs for root"),
    "chromium": (bool(harness.CHROMIUM), "they need Debian's chromium, which make installs for root"),
    "helm": (bool(harness.HELM), "they need helm, which make installs where there is Go"),
    "kind": (bool(harness.KIND), "they need kind, which make installs where there is Go"),
}
_left_out: Counter[str] = Counter()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = []
    for item in items:
        missing = [why for name, (there, why) in _NEEDS.items() if not there and item.get_closest_marker(name)]
        if missing:
            _left_out[missing[0]] += 1
            without.append(item)
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for why, number in _left_out.items():
        terminalreporter.write_line(f"{number} tests left out: {why}.")


@pytest.fixture(scope="session", params=_KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that all contract tests of one instance share; none may stop it."""
    directory = tmp_path_factory.mktemp(f"shared-{request.param}")
    shared = _start(request.param, directory)
    yield shared.ready()
    shared.close()


@pytest.fixture(params=_KINDS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers for one test alone, on either instance, with options of its own."""
    started: list[Server] = []

    def start(*options: str, **variables: str) -> Server:
        started.append(_start(request.param, tmp_path / str(len(started)), *options, **variables))
        return started[-1].ready()

    yield start
    for each in started:
        each.close()


def _start(kind: str, directory: Path, *options: str, **variables: str) -> Server:
    start = harness.flux_start if kind == "flux" else harness.embedded
    return start(directory, *options, **variables)


@pytest.fixture
def started() -> Iterator[Callable[[Process], Any]]:
    """Register a process: it is ended with the test, whatever happens."""
    processes: list[Process] = []

    def register(process: Process) -> Process:
        processes.append(process)
        return process

    yield register
    for process in reversed(processes):
        process.close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not see what the person who runs them has configured."""
    for name in list(os.environ):
        if name.startswith("FLUX_"):
            monkeypatch.delenv(name)
