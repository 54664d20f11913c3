"""Fixtures. Every contract test runs with both engines; tests whose requirements are missing are counted.

`make test` runs the suite in four worker processes (pytest-xdist), as many tests wait. Rules for that:

* A test gets its directories from ``tmp_path``, its ports from the system (``--port 0``) and its processes from
  ``started``, ``own_server`` or ``server``: it uses no name that tests of another worker could use too.
* A fixture of a session or a module is created once in each worker.
* All workers must collect the same tests in the same order: parametrize with lists and tuples, never with a set.
* An assertion must hold on a busy machine. A limit of a time is the limit that users are promised, or a ratio of two
  times measured in the same test. To wait, use ``eventually`` and its default.
* The timeouts are for a machine whose cores are busy. ``@pytest.mark.long`` gives a longer timeout to a test that takes
  minutes on an idle one; it is defined here.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.support import harness
from tests.support.cluster_api import ClusterAPI
from tests.support.harness import Process, Server

_KINDS = ("embedded", pytest.param("flux", marks=pytest.mark.flux))
#: What a marker requires: whether it is available, and the reason that is shown if it is not.
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
    "jq": (bool(harness.JQ), "they need jq, which make installs for root"),
    "zsh": (bool(harness.ZSH), "they need zsh, which make installs for root"),
    "tcsh": (bool(harness.TCSH), "they need tcsh, which make installs for root"),
    "helm": (bool(harness.HELM), "they need helm, which make installs where there is Go"),
    "kind": (bool(harness.KIND), "they need kind, which make installs where there is Go"),
}
_left_out: Counter[str] = Counter()
# Without a deadline for single examples, which other processes on the machine may slow down.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
#: More examples than each run has time for, to be run occasionally.
settings.register_profile("hostile", max_examples=20_000, deadline=None)
#: Seconds that a test marked ``long`` may take; the number for the others is in pyproject.toml.
_LONG = 900


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    without = []
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(_LONG))
        missing = [why for name, (there, why) in _NEEDS.items() if not there and item.get_closest_marker(name)]
        if missing:
            _left_out[missing[0]] += 1
            without.append(item)
    if without:
        config.hook.pytest_deselected(items=without)
        items[:] = [item for item in items if item not in without]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of a worker to the process that writes the summary; remove what killed brokers have left."""
    harness.TEMPORARY.cleanup()  # a worker does not run Python's atexit functions
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take a worker's counts; all workers have collected the same tests, so they are equal."""
    _left_out.update(Counter(getattr(node, "workeroutput", {}).get("left_out", {})) - _left_out)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    for why, number in _left_out.items():
        terminalreporter.write_line(f"{number} tests left out: {why}.")


@pytest.fixture(scope="session", params=_KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start the server that all contract tests of one instance share; no test may stop it."""
    with contextlib.closing(_start(request.param, tmp_path_factory.mktemp(f"shared-{request.param}"))) as shared:
        yield shared.ready()


@pytest.fixture(params=_KINDS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers for one test alone, with either engine and with their own options."""
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
def api(tmp_path: Path) -> Iterator[ClusterAPI]:
    """A fake Kubernetes API server, with a Job, its pods and a MiniCluster."""
    with ClusterAPI(tmp_path / "kubernetes") as running:
        yield running


@pytest.fixture
def started() -> Iterator[Callable[[Process], Any]]:
    """Register a process: it is ended after the test."""
    processes: list[Process] = []

    def register(process: Process) -> Process:
        processes.append(process)
        return process

    yield register
    for process in reversed(processes):
        process.close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's configuration from the tests."""
    for name in list(os.environ):
        if name.startswith("FLUX_"):
            monkeypatch.delenv(name)
