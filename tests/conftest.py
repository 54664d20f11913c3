"""Fixtures: every contract test runs on both instances; what needs Flux is counted where there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import harness
from tests.harness import Process, Server

_KINDS = ("embedded", pytest.param("flux", marks=pytest.mark.flux))
_left_out: list[str] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if harness.FLUX:
        return
    without = [item for item in items if item.get_closest_marker("flux")]
    _left_out.extend(item.nodeid for item in without)
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _left_out:
        terminalreporter.write_line(f"{len(_left_out)} tests left out: they need Flux, and `flux` is not on the PATH.")


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
